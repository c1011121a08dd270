"""A member loses its keys: the procedure of docs/running.md, "A lost node key", step by step and to the letter.

Configs, key files, cards, roster and commands are those of a real federation; only the wire is missing, so coordinator
and nodes are in this process. The steps are the section's own text: :func:`steps` reads its commands.
"""

from __future__ import annotations

import json
import re
import shutil
import sqlite3
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from conftest import CONFIGS
from moonflower.__main__ import main
from moonflower.client.app import Member, client_app
from moonflower.client.live import member_of
from moonflower.configs.live import ClientConfig, load_config
from moonflower.configs.settings import load_run
from moonflower.crypto.identity import Card, Identity, parse_card
from moonflower.errors import InputError, MoonflowerError, Refused
from moonflower.messages import Seal, TakeDeal
from moonflower.server.app import Coordinator
from moonflower.server.exchange import Exchange, Node
from moonflower.server.grid import LocalGrid
from moonflower.server.records import members as roster
from moonflower.server.records import rounds as history
from moonflower.server.records.state import State
from moonflower.server.records.verify import verify
from moonflower.client.keyring import load_keys
