"""What notebooks need: presets, trainings, cache, records, explorer, figures and exercises."""

from hetlib.lab.cache import Cache as Cache
from hetlib.lab.estimate import estimate as estimate
from hetlib.lab.exercises import check as check
from hetlib.lab.exercises import exercise as exercise
from hetlib.lab.explorer import Explorer as Explorer
from hetlib.lab.group import Group as Group
from hetlib.lab.presets import PRESETS as PRESETS
from hetlib.lab.presets import Run as Run
from hetlib.lab.presets import start as start
from hetlib.lab.records import on_record as on_record
from hetlib.lab.statistics import paired_differences as paired_differences
from hetlib.lab.tables import beside_published as beside_published
from hetlib.lab.toggles import checked as checked
from hetlib.lab.toggles import slider as slider
from hetlib.lab.train import Job as Job
from hetlib.lab.train import Trained as Trained
from hetlib.lab.train import TrainedGroup as TrainedGroup
from hetlib.lab.train import train as train
from hetlib.lab.train import train_all as train_all
from hetlib.lab.train import train_missing as train_missing
