"""The event log: what customers did, what was changed, what was shown; durable before it is acknowledged."""

from serving.events.exposures import ExposureBuffer, settle
from serving.events.log import EventLog, open_log
from serving.events.records import DISMISS, FEEDBACK_KINDS, IMPRESSION, Change, Event, Exposure, Shown
from serving.events.streams import CHANGES, EVENTS, EXPOSURES, KNOWN_DAYS, Entry, Stream, now_micros

__all__ = [
    "CHANGES",
    "DISMISS",
    "EVENTS",
    "EXPOSURES",
    "FEEDBACK_KINDS",
    "IMPRESSION",
    "KNOWN_DAYS",
    "Change",
    "Entry",
    "Event",
    "EventLog",
    "Exposure",
    "ExposureBuffer",
    "Shown",
    "Stream",
    "now_micros",
    "open_log",
    "settle",
]
