"""The herd on asyncio, with uvloop as its event loop. The code is asyncio's."""

import uvloop
from herd_asyncio import main

main(uvloop.new_event_loop)
