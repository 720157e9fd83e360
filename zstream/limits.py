"""Limits on whatever comes from outside, in one place and written once."""

from typing import Final

#: Bytes of one packed event.
MAX_EVENT_BYTES: Final = 1 << 20
#: Levels of maps and lists in one event, the event itself being the first.
MAX_DEPTH: Final = 64
#: UTF-8 bytes of an index value; a longer text is kept but not indexed.
MAX_TEXT_BYTES: Final = 255
#: Scalars of one list that are indexed.
MAX_LIST_VALUES: Final = 64
#: Values of one key in a filter.
MAX_FILTER_VALUES: Final = 10_000
#: The keys of a new store for which none are named.
DEFAULT_KEYS: Final = ("kind", "user", "repo")
#: Declared keys of one store.
MAX_KEYS: Final = 64
#: ``end`` of an ``items`` query; beyond it a walk goes by page token.
MAX_END: Final = 10_000
#: Events and bytes of one page (a page holds at least one event, however large).
PAGE_EVENTS: Final = 1_000
PAGE_BYTES: Final = 1 << 20
#: Events and bytes that a client puts into one numbered batch.
BATCH_EVENTS: Final = 1_000
BATCH_BYTES: Final = 1 << 20
#: Events that the daemon accepts in one frame.
MAX_FRAME_EVENTS: Final = 50_000
#: ZMQ_MAXMSGSIZE of the insert and the query socket: a larger frame resets the connection.
MAX_FRAME_BYTES: Final = 4 << 20
#: ZMQ_MAXMSGSIZE of the publish socket; above the filter limit, so that a filter that is
#: somewhat too long is answered with ERR and not with a connection that resets for ever.
MAX_SUBSCRIPTION_BYTES: Final = 64 << 10
#: Bytes of a filter that is subscribed to as text.
MAX_TOPIC_BYTES: Final = 4 << 10
#: Bytes of a filter, as text, that is registered and followed by its name.
MAX_REGISTERED_BYTES: Final = 1 << 20
#: Bytes of a publication's body, unless one event is larger.
PUBLICATION_BYTES: Final = 64 << 10
#: Identifiers and timestamps stay below 2^53, so that every language can hold them.
MAX_INTEGER: Final = (1 << 53) - 1
#: Numbers of batches that are never taken, from the first to the last: a producer sends such a
#: probe to be told where it stands.
FIRST_PROBE_N: Final = MAX_INTEGER - 1023
PROBE_N: Final = MAX_INTEGER
#: Bits of an id that count within a node; the node number stands above them.
COUNTER_BITS: Final = 46
MAX_NODE: Final = 127
#: How far ahead of the daemon's clock a date may be, in microseconds (24 h).
MAX_AHEAD_US: Final = 24 * 3600 * 1_000_000
#: A spool's lane that reached the daemon last so long ago, in microseconds (14 d), is not sent by
#: itself: the daemon may have forgotten which of its batches it has (``producer_keep``).
MAX_SILENCE_US: Final = 14 * 24 * 3600 * 1_000_000
