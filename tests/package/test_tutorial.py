"""The tutorial, followed to its end by somebody who has nothing but Python, an empty folder and the built wheel.

How a page of ``docs/tutorial`` is written so that it can be followed (the pages go in the order in which the site lists
them, ``index.md`` first and the others by name; all in one folder, one after the other):

- A block with ``title="tasks.py"`` is a file: it is written, or written anew, when the reader comes to it. Python without
  a title is an error: nothing would tell the reader where it goes.
- A block ``console``: lines with ``$ `` are typed, what stands below such a line is what it prints. A line that ends
  with a backslash goes on in the next, which begins with ``> ``. A command must end well (status 0), within 90 s; with
  ``# fails`` at its end it must not.
- Where nothing is shown below a command, what it prints is not looked at. Where something is, all of it is: a line
  ``...`` stands for any lines, ``...`` or ``…`` within a line for any text. A UUID, a date, a time of day, a number of
  four digits or more and one with a decimal point stand for any other of their kind.
- A block ``console title="Terminal 2"`` is another terminal, with a shell of its own in the same folder (so it is to
  activate the virtual environment itself). Its last command goes on: the page goes on when what is shown below it has
  been printed (a worker's ``ready.``). Without a title it is the first terminal, where every command ends.
- Such a block without a ``$ `` line shows what comes next in that terminal: it is waited for.
- A line ``^C`` is Ctrl-C in that terminal. What still runs after the last page gets one; all must end by it.
- Ports that a page names (``localhost:5555``, ``127.0.0.1:5555``, ``--port=5555``, ``--port 5555``) are replaced by free
  ones, wherever they stand in that way. A server's port is always named, also where it has a default.
- ``pip install celery-locks`` installs the wheel that has just been built. Nothing else is there: no server, no broker.
"""
