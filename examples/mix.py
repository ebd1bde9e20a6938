"""Five mixtures: steps of different papers in one sentence each. Run: python examples/mix.py"""

import torch

from hetlib import zoo
from hetlib.baselines import ByBlocks, Overlay
from hetlib.clafusion import Align
from hetlib.hmt import ByPosition, Cyclic
from hetlib.tlv import ByRatio, ByVariance, LinearStatistics
from hetlib.transfer import Transfer

MIXTURES = {
    "HMT's resizing with TLV's matching": Transfer(ByRatio(), (Cyclic(),)),
    "TLV's filters along CLAFusion's alignment": Transfer(Align("cka"), (ByVariance(shuffle=False),)),
    "HMT's interval order, a third of the target kept": Transfer(ByPosition("interval"), (Cyclic(),), 1 / 3),
    "TLV's filters and statistics on DPIAT's blocks": Transfer(ByBlocks(), (ByVariance(), LinearStatistics())),
    "DPIAT's filters by norm along CLAFusion's alignment": Transfer(Align("cka"), (Overlay("trace"),)),
}

if __name__ == "__main__":
    images = torch.randn(64, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    for name, mixture in MIXTURES.items():
        source, target = zoo.build("resnet18", width=0.25), zoo.build("resnet34", width=0.125)
        print(f"{name}\n  {str(mixture(source, target, images)).splitlines()[0]}")
