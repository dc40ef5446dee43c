"""Words that people may say, for those who call the API: kinds of events, options of apps."""

from sidegate.core.kinds import KINDS as KINDS
from sidegate.core.options import OPTIONS as OPTIONS
