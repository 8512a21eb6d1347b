/*
 * The life of a parked task's ticket, for Spin.
 *
 * `make model` checks it. docs/explanation/parking.md explains the protocol, the properties and the limits of the model.
 *
 * Three tasks, two keys, two workers, a broker that delivers again, a store whose steps are atomic, a sweeper, a clock.
 * Every step of a process is one interaction with the store, the broker or the result backend, so that a worker may
 * crash between any two interactions.
 *
 * Time is not modelled. A deadline passes when nothing lives that could still meet it. It also passes too early, which
 * counts as a fault. FAULTS bounds the faults: a crash, a lost connection, a deadline that passes too early, a lease
 * that expires under its run, a forgotten ticket. TURNS bounds what a body may do apart from ending: a retry, a
 * requeue, a killed child process, a wait that takes too long.
 *
 * -DLATE_TASKS=mask  tasks with late acknowledgement, one bit each
 * -DCALLS=n          tasks that are called
 * -DFAULTS=n -DTURNS=n
 * -DPROPERTY=n       which property is asserted: see the list below; 0 asserts all
 * -DSEED_...         a known fault, which Spin must find
 */

#ifndef LATE_TASKS
#define LATE_TASKS 5
#endif
#ifndef FAULTS
#define FAULTS 2
#endif
#ifndef TURNS
#define TURNS 1
#endif
#ifndef CALLS /* how many tasks are called: the third has a key of its own */
#define CALLS 3
#endif
#ifndef PROPERTY
#define PROPERTY 0
#endif

/* ---- Tasks, publications, keys ---------------------------------------------------------------------------------- */

#define TASKS 3
#define PUBLICATIONS 6  /* publication p belongs to task p % 3; p + 3 is what its retry publishes */
#define NO 7            /* no publication */
#define TASK(p) ((p) % TASKS)
#define KEY(p) (TASK(p) == 2) /* tasks 0 and 1 have key 0, task 2 has key 1 */
#define LATE(p) ((LATE_TASKS >> TASK(p)) & 1)

#ifdef SEED_TICKET_PER_TASK /* known fault: a ticket is named after its task, not after its publication */
#define ID(p) TASK(p)
#else
#define ID(p) (p)
#endif
#define TICKET(p) ticket[ID(p)]

/* States of a ticket. */
#define NONE 0       /* the store has no record */
#define PARKED 1     /* in line */
#define DISPATCHED 2 /* its turn came: the key is reserved for it until a deadline */
#define RUNNING 3    /* a run has the lease, under the ticket's token */
#define ENDED 4      /* the run ended, and its result is not stored yet or its message comes again */
#define OUT 5        /* it left the line before its turn; a worker has to end the task */
#define DONE 6       /* the tombstone */

/* How a run ended. */
#define BUSY 0
#define FINAL 1      /* success, failure, skip: the result gets stored, the message acknowledged */
#define RETRY 2      /* final for this publication: the next publication is in the broker before the message is acknowledged */
#define AGAIN 3      /* not final: requeue, cold shutdown, lost connection, failure without acknowledgement */
#define NO_RUN 4     /* the copy parked, or was dropped */
#define PUT_OUT 5    /* the ticket was out: the worker ends the task without a run */
#define STORED 6     /* FINAL, and the result is stored before the lease is released */

/* Where a worker stands. */
#define IDLE 0
#define RECEIVED 1
#define BODY 2
#define KILLED 3     /* the child process died; the worker's parent process lives */
#define RELEASE 4
#define PUBLISH 5    /* the step before dispatched a ticket: its message has to be sent */
#define SUCCEED 6    /* publish the retry */
#define RESULT 7
#define FINISH 8
#define ACK 9

typedef Ticket {
  unsigned state : 3;
  unsigned token : 4; /* of the run, while RUNNING or ENDED */
  unsigned owed : 1   /* the broker may have no copy left: the store has to dispatch it again */
#ifdef SEED_TICKET_PER_TASK
  ; unsigned message : 3
#endif
};

typedef Worker {
  unsigned at : 4;
  unsigned p : 3;      /* the publication whose message it has */
  unsigned copy : 1;   /* the broker keeps an unacknowledged copy for this worker */
  unsigned newest : 1; /* its message is the last that was dispatched, and came by the broker */
  unsigned token : 4;
  unsigned lost : 1;   /* its lease expired: the body is aborted */
#ifdef SEED_STALE_COPY_NOT_OWED
  unsigned direct : 1;
#endif
  unsigned known : 1;  /* its run has a ticket */
  unsigned end : 3;
  unsigned send : 3;   /* dispatched, its message not sent yet */
  unsigned send_newest : 1; /* ... and not dispatched again since */
  unsigned next : 3    /* dispatched to this worker directly, not begun yet */
};

Ticket ticket[PUBLICATIONS];
Worker worker[2];

/* Who holds a key: no holder, the token of a run, or a reservation for a dispatched ticket. */
#define FREE 0
#define RESERVED(p) (16 + ID(p))
byte holder[2];

/* Copies of a publication's message in the broker's queue. A message carries the number of its dispatch. */
byte queue[PUBLICATIONS];  /* older ones, and those that were never dispatched */
byte newest[PUBLICATIONS]; /* those of the ticket's last dispatch, since when it was not parked again */
byte faults = FAULTS, turns = TURNS;

/* Scratch of a step, no part of a state. */
hidden byte p, k, t, q, i;

/* What happened, for the properties only. */
typedef Life {
  unsigned at : 2;   /* of a publication, below */
  unsigned over : 2  /* its ticket became DONE after this kind of end */
};
#define UNBORN 0
#define OPEN 1     /* published */
#define CLOSED 2   /* its result is stored, or its retry published; or lost as Celery loses it, or with the store's record */

Life life[PUBLICATIONS];

#define HAS_TOKEN(w, t) (t != 0 && worker[w].token == t)
#define TOKEN_LIVES(t) (HAS_TOKEN(0, t) || HAS_TOKEN(1, t))

inline close(pub) {
  if
  :: life[pub].at == OPEN -> life[pub].at = CLOSED
  :: else
  fi
}

/* A ticket leaves its run: a copy takes it over, a deadline passes, the store forgets it. */
inline leave_run(id) {
  if
  :: HAS_TOKEN(0, ticket[id].token) -> worker[0].known = 0
  :: HAS_TOKEN(1, ticket[id].token) -> worker[1].known = 0
  :: else
  fi
}

/* ---- Properties ------------------------------------------------------------------------------------------------- */

#define CHECK(n, what) assert((PROPERTY != 0 && PROPERTY != n) || (what))

#define EXCLUSION(w) CHECK(1, !(LIVE(1 - w) && KEY(worker[1 - w].p) == KEY(worker[w].p)))
#define DONE_IS_FINAL(w) CHECK(2, \
  worker[w].end != AGAIN && worker[w].end != NO_RUN && (!LATE(worker[w].p) || life[worker[w].p].at == CLOSED))
#define NOT_SUPERSEDED(p) CHECK(3, life[p].over != RETRY)
#define NOT_OVER(p) CHECK(4, life[p].over != FINAL)
#define ENDS_ITS_TICKET(w) CHECK(5, !worker[w].known || TICKET(worker[w].p).state == DONE)
/* 6: Rest, at the end. 7: everything_ends, at the end. */

#define LIVE(w) ((worker[w].at == BODY || worker[w].at == KILLED) && !worker[w].lost)

#define AFTER_RELEASE(w) \
  (worker[w].end == NO_RUN || worker[w].end == AGAIN || worker[w].end == STORED -> ACK : \
    (worker[w].end == RETRY -> SUCCEED : RESULT))

/* ---- Steps of the store: each is one atomic change -------------------------------------------------------------- */

#define USED(t) (holder[0] == t || holder[1] == t || worker[0].token == t || worker[1].token == t || \
  ticket[0].token == t || ticket[1].token == t || ticket[2].token == t || \
  ticket[3].token == t || ticket[4].token == t || ticket[5].token == t)

/* A new token is one that nothing refers to. */
inline new_token(t) {
  t = 1;
  do
  :: USED(t) -> t++
  :: else -> break
  od;
  assert(t < 16)
}

inline set_ticket(i, to, its_token, is_owed) {
  ticket[i].state = to;
  ticket[i].token = its_token;
  ticket[i].owed = is_owed
}

/* The ticket is parked: no message that is under way now is of its next dispatch. */
inline park(its) {
  set_ticket(its, PARKED, 0, 0);
  queue[its] = queue[its] + newest[its];
  newest[its] = 0;
  if :: ID(worker[0].p) == its -> worker[0].newest = 0 :: else fi;
  if :: ID(worker[1].p) == its -> worker[1].newest = 0 :: else fi;
  if :: worker[0].send != NO && ID(worker[0].send) == its -> worker[0].send_newest = 0 :: else fi;
  if :: worker[1].send != NO && ID(worker[1].send) == its -> worker[1].send_newest = 0 :: else fi
}

#define IN_LINE(i, k) (ticket[i].state == PARKED && KEY(i) == k)
#define ANY_IN_LINE(k) (IN_LINE(0, k) || IN_LINE(1, k) || IN_LINE(2, k) || IN_LINE(3, k) || IN_LINE(4, k) || IN_LINE(5, k))

/* Choose the ticket to dispatch: the first or the last of those in line, so that the order proves nothing. */
inline choose(k, from_the_end, q) {
  q = NO;
  i = 0;
  do
  :: i < PUBLICATIONS ->
    if
    :: IN_LINE(i, k) && (q == NO || from_the_end) -> q = i
    :: else
    fi;
    i++
  :: else -> break
  od
}

/* Dispatch a ticket where the key is free: the key is reserved for it. `q` is the publication, or NO. */
inline dispatch(k, from_the_end, q) {
  q = NO;
  if
  :: holder[k] == FREE ->
    choose(k, from_the_end, q);
    if
    :: q != NO ->
      holder[k] = RESERVED(q);
      set_ticket(q, DISPATCHED, 0, 0);
#ifdef SEED_TICKET_PER_TASK
      q = ticket[q].message
#endif
    :: else
    fi
  :: else
  fi
}

inline make_done(w) {
  DONE_IS_FINAL(w);
#ifdef SEED_NO_TOMBSTONE
  set_ticket(ID(p), NONE, 0, 0);
#else
  set_ticket(ID(p), DONE, 0, 0);
#endif
  life[p].over = (worker[w].end == RETRY -> RETRY : FINAL)
}

/*
 * A run of a task with late acknowledgement is owed from its start, unless the broker keeps its message for sure: unless
 * the message is that of the ticket's last dispatch, and came by the broker.
 */
#ifdef SEED_STALE_COPY_NOT_OWED
#define IS_OWED(w) worker[w].direct
#else
#define IS_OWED(w) (!worker[w].newest)
#endif

/* A copy of the message has come. It is dropped, or runs, or parks. */
inline enter(w, pass_others, from_the_end) {
  p = worker[w].p;
  k = KEY(p);
  if
  :: TICKET(p).state == DONE ->
    worker[w].end = NO_RUN;
    worker[w].at = ACK
  :: TICKET(p).state == OUT ->
    worker[w].end = PUT_OUT;
    worker[w].at = RESULT;
#ifdef SEED_OUT_IS_DONE
    set_ticket(ID(p), DONE, 0, 0)
#endif
  :: TICKET(p).state == RUNNING && TICKET(p).token == holder[k] ->
#ifndef SEED_DROPPED_COPY_FORGOTTEN
    TICKET(p).owed = 1;
#endif
    worker[w].end = NO_RUN;
    worker[w].at = ACK
  :: else ->
    if
    :: TICKET(p).state == RUNNING || TICKET(p).state == ENDED -> leave_run(ID(p))
    :: TICKET(p).state == PARKED -> TICKET(p).state = DISPATCHED /* only the others are in line now */
    :: else
    fi;
    if
    :: holder[k] == RESERVED(p) -> holder[k] = FREE; t = 1
    :: else -> t = 0
    fi;
    if
    :: holder[k] == FREE && (t == 1 || pass_others || !ANY_IN_LINE(k)) ->
      new_token(t);
      holder[k] = t;
      worker[w].token = t;
      worker[w].known = (TICKET(p).state != NONE);
      if
      :: worker[w].known ->
        set_ticket(ID(p), RUNNING, t, (LATE(p) && (TICKET(p).owed || IS_OWED(w))))
      :: else
      fi;
      worker[w].at = BODY;
      EXCLUSION(w);
      NOT_SUPERSEDED(p);
      NOT_OVER(p)
    :: else ->
      park(ID(p));
#ifdef SEED_TICKET_PER_TASK
      TICKET(p).message = p;
#endif
      worker[w].end = NO_RUN;
      dispatch(k, from_the_end, q);
      worker[w].send = q;
      worker[w].send_newest = (q != NO);
      worker[w].at = (q == NO -> ACK : PUBLISH)
    fi
  fi
}

#define MAY_BE_DONE(w) (!LATE(worker[w].p) || worker[w].end == STORED)

/* The run has ended: release the lease, settle the ticket by the run's outcome, dispatch the next. */
inline end_run(w, from_the_end) {
  p = worker[w].p;
  k = KEY(p);
  if
  :: holder[k] == worker[w].token -> holder[k] = FREE
  :: else
  fi;
  if
  :: TICKET(p).state == RUNNING && TICKET(p).token == worker[w].token ->
    if
#ifdef SEED_RELEASE_IS_DONE /* known fault: whatever ended the run, the release made the ticket done */
    :: true -> make_done(w)
#endif
#ifdef SEED_DONE_BEFORE_RESULT
    :: worker[w].end != AGAIN -> make_done(w)
#endif
#ifdef SEED_OWED_PARKS_AT_ONCE
    :: worker[w].end != AGAIN && LATE(p) && TICKET(p).owed -> park(ID(p))
#endif
    :: worker[w].end == AGAIN && TICKET(p).owed -> park(ID(p))
    :: worker[w].end == AGAIN && !TICKET(p).owed -> TICKET(p).state = ENDED
    :: worker[w].end != AGAIN && MAY_BE_DONE(w) -> make_done(w)
    :: worker[w].end != AGAIN && !MAY_BE_DONE(w) -> TICKET(p).state = ENDED /* owed or not, until `finish` */
    fi
  :: else
  fi;
  if
  :: worker[w].end != AGAIN && MAY_BE_DONE(w) -> ENDS_ITS_TICKET(w)
  :: else
  fi;
  worker[w].lost = 0;
  if
  :: TICKET(p).state != ENDED || TICKET(p).token != worker[w].token -> worker[w].token = 0
  :: else
  fi;
  dispatch(k, from_the_end, q);
  worker[w].send = q;
  worker[w].send_newest = (q != NO);
  worker[w].at = (q == NO -> AFTER_RELEASE(w) : PUBLISH)
}

/* The result is stored: the ticket is done, unless a copy has taken it over. */
inline finish(w) {
  p = worker[w].p;
  if
  :: TICKET(p).state == ENDED && TICKET(p).token == worker[w].token -> make_done(w)
  :: worker[w].end == PUT_OUT && TICKET(p).state == OUT -> make_done(w)
  :: else
  fi;
  ENDS_ITS_TICKET(w);
  worker[w].at = ACK
}

/* ---- A worker --------------------------------------------------------------------------------------------------- */

inline not_sending(w) {
  worker[w].send = NO;
  worker[w].send_newest = 0
}

inline reset(w) {
  worker[w].at = IDLE;
  worker[w].p = 0;
  worker[w].copy = 0;
  worker[w].newest = 0;
  worker[w].token = 0;
  worker[w].lost = 0;
  worker[w].known = 0;
#ifdef SEED_STALE_COPY_NOT_OWED
  worker[w].direct = 0;
#endif
  worker[w].end = BUSY
}

inline return_copy(w) {
  if
  :: worker[w].copy -> worker[w].copy = 0;
    if
    :: worker[w].newest -> newest[worker[w].p]++
    :: else -> queue[worker[w].p]++
    fi;
    assert(queue[worker[w].p] + newest[worker[w].p] < 6)
  :: else
  fi
}

/* What plain Celery loses as well: a task acknowledged early whose worker dies. Its ticket, where one waits, saves it. */
inline excuse(w) {
  p = worker[w].p;
  if
  :: worker[w].at != IDLE && !LATE(p) && !worker[w].copy && worker[w].end != NO_RUN && (TICKET(p).state == NONE || TICKET(p).state == DONE ||
      (TICKET(p).state == RUNNING && TICKET(p).token == worker[w].token)) -> close(p)
  :: else
  fi
}

inline receive(w, its, is_newest) {
  if
  :: is_newest -> newest[its]--
  :: else -> queue[its]--
  fi;
  worker[w].p = its;
  worker[w].copy = 1;
  worker[w].newest = is_newest;
  worker[w].at = RECEIVED
}

/* Of two idle workers the first receives: they are the same but for their number. */
#define WAITS(w) (worker[w].at == IDLE && worker[w].next == NO)
#define MAY_RECEIVE(w) (WAITS(w) && (w == 0 || !WAITS(0)))

#define MAY_RETRY(p) (p < TASKS && life[p + TASKS].at == UNBORN)
#define CAN_LOSE(w) ((worker[w].at != IDLE && (worker[w].at != ACK || worker[w].copy)) || worker[w].next != NO)

#define EARLY_UNACKED(w) (worker[w].copy && !LATE(worker[w].p))

proctype Work(bit w) {
end:
  do
  :: d_step { MAY_RECEIVE(w) && queue[0] > 0 -> receive(w, 0, 0) }
  :: d_step { MAY_RECEIVE(w) && newest[0] > 0 -> receive(w, 0, 1) }
  :: d_step { MAY_RECEIVE(w) && queue[1] > 0 -> receive(w, 1, 0) }
  :: d_step { MAY_RECEIVE(w) && newest[1] > 0 -> receive(w, 1, 1) }
  :: d_step { MAY_RECEIVE(w) && queue[2] > 0 -> receive(w, 2, 0) }
  :: d_step { MAY_RECEIVE(w) && newest[2] > 0 -> receive(w, 2, 1) }
  :: d_step { MAY_RECEIVE(w) && queue[3] > 0 -> receive(w, 3, 0) }
  :: d_step { MAY_RECEIVE(w) && newest[3] > 0 -> receive(w, 3, 1) }
  :: d_step { MAY_RECEIVE(w) && queue[4] > 0 -> receive(w, 4, 0) }
  :: d_step { MAY_RECEIVE(w) && newest[4] > 0 -> receive(w, 4, 1) }
  :: d_step { MAY_RECEIVE(w) && queue[5] > 0 -> receive(w, 5, 0) }
  :: d_step { MAY_RECEIVE(w) && newest[5] > 0 -> receive(w, 5, 1) }
  :: d_step { worker[w].at == IDLE && worker[w].next != NO ->
      worker[w].p = worker[w].next;
      worker[w].next = NO;
#ifdef SEED_DIRECT_NOT_OWED
      worker[w].newest = 1;
#endif
#ifdef SEED_STALE_COPY_NOT_OWED
      worker[w].direct = 1;
#endif
      worker[w].at = RECEIVED
    }

  /* Early acknowledgement comes before the run asks the store. */
  :: d_step { worker[w].at == RECEIVED && EARLY_UNACKED(w) -> worker[w].copy = 0 }
  :: d_step { worker[w].at == RECEIVED && !EARLY_UNACKED(w) -> enter(w, 0, 0) }
  :: d_step { worker[w].at == RECEIVED && !EARLY_UNACKED(w) && ANY_IN_LINE(KEY(worker[w].p)) -> enter(w, 1, 0) }
  :: d_step { worker[w].at == RECEIVED && !EARLY_UNACKED(w) && ANY_IN_LINE(KEY(worker[w].p)) -> enter(w, 0, 1) }

  /* The body ends. */
  :: d_step { worker[w].at == BODY -> worker[w].end = FINAL; worker[w].at = RELEASE }
  :: d_step { worker[w].at == BODY && turns > 0 && !worker[w].lost && MAY_RETRY(worker[w].p) ->
      turns--; worker[w].end = RETRY; worker[w].at = RELEASE
    }
  :: d_step { worker[w].at == BODY && turns > 0 && LATE(worker[w].p) ->
      turns--; worker[w].end = AGAIN; worker[w].at = RELEASE
    }
  /* The child process is killed. Its parent lets Celery decide first: FAILURE is stored, or the message is requeued. */
  :: d_step { worker[w].at == BODY && turns > 0 -> turns--; worker[w].end = FINAL; worker[w].at = KILLED }
  :: d_step { worker[w].at == KILLED ->
#ifdef SEED_REAPER_FIRST
      worker[w].end = AGAIN; end_run(w, 0); worker[w].end = FINAL;
      if :: worker[w].at == ACK -> worker[w].at = RESULT :: else fi
#else
      close(worker[w].p); worker[w].end = STORED; worker[w].at = RELEASE
#endif
    }
#ifdef SEED_RELEASED_BEFORE_DEATH
  :: d_step { worker[w].at == KILLED && holder[KEY(worker[w].p)] == worker[w].token -> holder[KEY(worker[w].p)] = FREE }
#endif

  :: d_step { worker[w].at == RELEASE -> end_run(w, 0) }
  :: d_step { worker[w].at == RELEASE && ANY_IN_LINE(KEY(worker[w].p)) -> end_run(w, 1) }

  /* The dispatched message goes to the broker, or to this worker itself. */
  :: d_step { worker[w].at == PUBLISH ->
      if
      :: worker[w].send_newest -> newest[worker[w].send]++
      :: else -> queue[worker[w].send]++
      fi;
      assert(queue[worker[w].send] + newest[worker[w].send] < 6);
      not_sending(w);
      worker[w].at = AFTER_RELEASE(w)
    }
  :: d_step { worker[w].at == PUBLISH && worker[w].next == NO ->
      worker[w].next = worker[w].send;
      not_sending(w);
      worker[w].at = AFTER_RELEASE(w)
    }

  /* Late acknowledgement: the next publication or the result first, then the ticket, then the message. */
  :: d_step { worker[w].at == SUCCEED ->
      p = worker[w].p;
      if
      :: life[p + TASKS].at == UNBORN -> queue[p + TASKS]++; life[p + TASKS].at = OPEN
      :: else /* two runs of one publication retried; the second would publish a third publication */
      fi;
      close(p);
      worker[w].at = (LATE(p) -> FINISH : ACK)
    }
  :: d_step { worker[w].at == RESULT ->
      close(worker[w].p);
      worker[w].at = (LATE(worker[w].p) || worker[w].end == PUT_OUT -> FINISH : ACK)
    }
  :: d_step { worker[w].at == FINISH -> finish(w) }
  :: d_step { worker[w].at == ACK ->
      if
      :: worker[w].end == AGAIN -> return_copy(w)
      :: else
      fi;
      reset(w)
    }

  /* It crashes: the broker delivers again what was not acknowledged. */
  :: d_step { faults > 0 && CAN_LOSE(w) ->
      faults--;
      excuse(w);
      return_copy(w);
      not_sending(w);
      worker[w].next = NO;
      reset(w)
    }

  /* It loses its connection to the broker, which delivers again at once. The work goes on, ... */
  :: d_step { faults > 0 && worker[w].copy -> faults--; return_copy(w) }
  /* ... or it is dropped before it began, also what was dispatched directly, ... */
  :: d_step { faults > 0 && worker[w].at == RECEIVED && (worker[w].copy || LATE(worker[w].p)) ->
      faults--; return_copy(w); worker[w].next = NO; reset(w)
    }
  :: d_step { faults > 0 && worker[w].next != NO -> faults--; return_copy(w); worker[w].next = NO }
  /* ... or cancelled, where it is acknowledged late. */
  :: d_step { faults > 0 && worker[w].at == BODY && LATE(worker[w].p) ->
      faults--; return_copy(w); worker[w].end = AGAIN; worker[w].at = RELEASE
    }
  od
}

/* ---- The clock, the sweeper, a forgetful store ------------------------------------------------------------------ */

#define HANDLES(w, i) (worker[w].at == RECEIVED && ID(worker[w].p) == i)
#define CARRIES(w, i) ((worker[w].send != NO && ID(worker[w].send) == i) || (worker[w].next != NO && ID(worker[w].next) == i))
#define QUEUED(i) (queue[i] + newest[i] > 0)
/* A message for this ticket is still on its way to the store. */
#define COMING(i) (QUEUED(i) || HANDLES(0, i) || HANDLES(1, i) || CARRIES(0, i) || CARRIES(1, i))
/* The broker has a copy that is still to run, or that runs. */
#define RUNS_FROM(w, i) (worker[w].copy && worker[w].end != NO_RUN && ID(worker[w].p) == i)
#define IN_BROKER(i) (QUEUED(i) || RUNS_FROM(0, i) || RUNS_FROM(1, i))

#define IS_TOKEN(k) (holder[k] != FREE && holder[k] < 16)
#define IS_RESERVED(k) (holder[k] >= 16)

inline lose_lease(k) {
  if
  :: HAS_TOKEN(0, holder[k]) -> worker[0].lost = 1; worker[0].known = 0
  :: HAS_TOKEN(1, holder[k]) -> worker[1].lost = 1; worker[1].known = 0
  :: else
  fi;
  holder[k] = FREE
}

proctype Clock() {
end:
  do
  :: d_step { IS_TOKEN(0) && !TOKEN_LIVES(holder[0]) -> holder[0] = FREE }
  :: d_step { IS_TOKEN(1) && !TOKEN_LIVES(holder[1]) -> holder[1] = FREE }
  :: d_step { IS_TOKEN(0) && TOKEN_LIVES(holder[0]) && faults > 0 -> faults--; lose_lease(0) }
  :: d_step { IS_TOKEN(1) && TOKEN_LIVES(holder[1]) && faults > 0 -> faults--; lose_lease(1) }
  :: d_step { IS_RESERVED(0) && !COMING(holder[0] - 16) -> holder[0] = FREE }
  :: d_step { IS_RESERVED(1) && !COMING(holder[1] - 16) -> holder[1] = FREE }
  :: d_step { IS_RESERVED(0) && COMING(holder[0] - 16) && faults > 0 -> faults--; holder[0] = FREE }
  :: d_step { IS_RESERVED(1) && COMING(holder[1] - 16) && faults > 0 -> faults--; holder[1] = FREE }
  od
}

/* What the sweeper does to one ticket. It publishes in the same step: its crash in between is a lost message. */
#ifdef SEED_NO_DEADLINE
#define LATE_DISPATCH(i) false
#else
#define LATE_DISPATCH(i) (ticket[i].state == DISPATCHED && holder[KEY(i)] != 16 + i)
#endif
#define LOST_RUN(i) (ticket[i].state == RUNNING && ticket[i].owed && holder[KEY(i)] != ticket[i].token)
#define LATE_END(i) (ticket[i].state == ENDED && ticket[i].owed)
#define LATE_OUT(i) (ticket[i].state == OUT && !COMING(i) && !ENDING(0, i) && !ENDING(1, i))
#define ENDING(w, i) (worker[w].end == PUT_OUT && ID(worker[w].p) == i)

#ifdef SEED_TICKET_PER_TASK
#define MESSAGE(i) ticket[i].message
#else
#define MESSAGE(i) i
#endif

#define SWEEP(i) \
  :: d_step { LATE_DISPATCH(i) || LOST_RUN(i) -> park(i) } \
  :: d_step { LATE_END(i) && !TOKEN_LIVES(ticket[i].token) -> park(i) } \
  :: d_step { LATE_END(i) && TOKEN_LIVES(ticket[i].token) && faults > 0 -> \
      faults--; leave_run(i); park(i) \
    } \
  :: d_step { LATE_OUT(i) -> queue[MESSAGE(i)]++ } \
  :: d_step { ticket[i].state == PARKED && turns > 0 -> \
      turns--; set_ticket(i, OUT, 0, 0); queue[MESSAGE(i)]++ \
    } \
  :: d_step { IN_LINE(i, KEY(i)) && holder[KEY(i)] == FREE -> \
      holder[KEY(i)] = 16 + i; set_ticket(i, DISPATCHED, 0, 0); newest[MESSAGE(i)]++ \
    } \
  :: d_step { IN_LINE(i, KEY(i)) && holder[KEY(i)] == FREE && faults > 0 -> \
      faults--; holder[KEY(i)] = 16 + i; set_ticket(i, DISPATCHED, 0, 0) \
    }

proctype Sweeper() {
end:
  do
  SWEEP(0)
  SWEEP(1)
  SWEEP(2)
  SWEEP(3)
  SWEEP(4)
  SWEEP(5)
  od
}

/* The store forgets a ticket. Where it was the only record of the task, the task is lost. */
#define FORGET(i) \
  :: d_step { faults > 0 && ticket[i].state != NONE -> \
      faults--; \
      if :: !IN_BROKER(i) -> close(i) :: else fi; \
      leave_run(i); \
      set_ticket(i, NONE, 0, 0); \
      life[i].over = 0 \
    }

proctype Forget() {
end:
  do
  FORGET(0)
  FORGET(1)
  FORGET(2)
  FORGET(3)
  FORGET(4)
  FORGET(5)
  od
}

/* ---- The end ---------------------------------------------------------------------------------------------------- */

#define ENDS(p) (life[p].at != OPEN)
#define everything_ends (ENDS(0) && ENDS(1) && ENDS(2) && ENDS(3) && ENDS(4) && ENDS(5))

#define SETTLED(p) (ticket[p].state == NONE || ticket[p].state == DONE || \
  ((ticket[p].state == ENDED || ticket[p].state == RUNNING) && !ticket[p].owed && ENDS(p)))
#define at_rest (holder[0] == FREE && holder[1] == FREE && worker[0].at == IDLE && worker[1].at == IDLE && \
  SETTLED(0) && SETTLED(1) && SETTLED(2) && SETTLED(3) && SETTLED(4) && SETTLED(5))

init {
  d_step {
    for (i : 0 .. 1) { worker[i].send = NO; worker[i].next = NO }
    for (i : 0 .. CALLS - 1) { queue[i] = 1; life[i].at = OPEN }
  }
  atomic { run Work(0); run Work(1); run Clock(); run Sweeper(); run Forget() }
end:
  timeout -> d_step { /* no other process can move any more */
    CHECK(6, at_rest);
    CHECK(7, everything_ends)
  }
}

#ifdef LIVENESS
ltl every_task_ends { <> [] everything_ends }
#endif
