"""What the tracker must be told, durable on disk first: operations → journal → outbox, a thread → sender → store.

`lock` and `work` say who may, `disk` whether there is room. Knows no search and no workers.
"""
