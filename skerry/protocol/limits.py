"""Every limit on what a peer may send, with its unit. The defaults; configuration may lower them."""

PROTOCOL_MAJOR = 1  # another major number is refused
PROTOCOL_MINOR = 1  # another minor number is tolerated: unknown fields are ignored

FRAME_BYTES_MAX = 1 << 20  # one WebSocket message
PART_BYTES_MAX = 256 << 10  # payload of one part of an update or a model
PAYLOAD_BYTES_MAX = 256 << 20  # a whole update, model or peer difference, all parts together
PARTS_MAX = 4096  # PAYLOAD_BYTES_MAX in smaller parts than the default
TEXT_CHARS_MAX = 1024  # any one string of a message
LEDGER_LINES_MAX = 512  # of one PeerLedger
NAME_CHARS_MAX = 64  # a device, region or coordinator name
MAP_ENTRIES_MAX = 256  # any one map or list of a message
CONTAINERS_MAX = 256  # maps and lists of a message, nested ones too
ANSWERS_MAX = 16  # to the newest updates of a device that a coordinator remembers: no more may wait at the agent
AGE_MAX = 1e15  # of a model; there it stands still
PROGRESS_TIMEOUT_S = 20.0  # without one byte from the other side, the stream counts as dead
