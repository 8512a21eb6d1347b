// For each number of seconds on stdin: acquires and releases a lock for so long, and prints pairs a second.
import { createInterface } from 'node:readline'
import { Redis } from 'ioredis'
import { Verrou } from '@verrou/core'
import { redisStore } from '@verrou/core/drivers/redis'

const verrou = new Verrou({
  default: 'redis',
  stores: { redis: { driver: redisStore({ connection: new Redis(process.argv[2]) }) } },
})

for await (const line of createInterface({ input: process.stdin })) {
  const end = performance.now() + Number(line) * 1000
  let pairs = 0
  while (performance.now() < end) {
    const lock = verrou.createLock('bench:verrou', 60_000)
    if (!(await lock.acquire())) throw new Error('not acquired')
    await lock.release()
    pairs += 1
  }
  console.log(pairs / Number(line))
}
