"""Net2Net's wider network, a whole method in one file: `Transfer(SameName(), (Widen(),))(source, target)`."""

from dataclasses import dataclass

import torch

from hetlib.errors import unknown
from hetlib.transfer import Fill, keep


@dataclass(frozen=True)
class Widen:
    """Make a wider target of the same family compute what the source does (Chen et al., ICLR 2016, section 2.2).

    A channel that the source lacks copies a random one; a layer that reads a channel divides by its number of copies.
    `head` "keep" keeps the target's classifier, for other classes. `noise`, in deviations of a kernel, changes copies.
    """

    head: str = "copy"
    noise: float = 0.0

    def __post_init__(self):
        if self.head not in ("copy", "keep"):
            raise unknown("head", self.head, ["copy", "keep"])

    def __call__(self, context, pairs):
        given, ours = context.source.state_dict(), context.target.state_dict(keep_vars=True)
        told = lambda name: f"{name} {' -> '.join(str(tuple(net[name].shape)) for net in (given, ours) if name in net)}"
        paired = {pair.target for pair in pairs if pair.source == pair.target}
        for name in [*ours, *given]:
            if name not in given or name not in ours or name.rpartition(".")[0] not in paired:
                raise ValueError(f"{told(name)}: both networks need this layer, paired by its name")
        key = lambda group: tuple((member.name, member.axis, member.index.shape[1]) for member in group.members)
        groups, places, kept = {key(group): group for group in context.source_chain.axes}, {}, set()
        for new in context.target_chain.axes:
            if self.head == "keep" and new.fixed == "network output":
                kept |= {member.name for member in new.members}
                continue
            added = new.size - old.size if (old := groups.get(key(new))) else -1
            why = new.fixed or (new.joint and f"{new.joint} takes its channels together")
            if added < 0 or (added and why):
                raise ValueError(f"{told(new.members[0].name)}: cannot widen: {why or 'narrower or rewired'}")
            picked = torch.cat([torch.arange(old.size), torch.randint(old.size, (added,), generator=context.generator)])
            for member in old.reads:
                given[member.name] = member.scaled(given[member.name], 1 / picked.bincount().double())
            for here, there in zip(new.members, old.members, strict=True):
                place = places.setdefault((here.name, here.axis), torch.zeros(ours[here.name].shape[here.axis]).long())
                place[here.index] = there.index[picked]  # where the source has what stands here in the target
        for name, out in ours.items():
            layer, weight = name.rpartition(".")[0], given[name]
            if name in kept or not out.is_floating_point():
                yield keep(layer, out, "the target's own")
                continue
            for axis in (axis for axis in (0, 1) if (name, axis) in places):
                weight = weight.index_select(axis, places[name, axis].to(weight.device))
            if self.noise and weight.dim() > 1:
                noise, rows = torch.randn(weight.shape, generator=context.generator), places[name, 0].tolist()
                noise[[rows.index(row) for row in set(rows)]] = 0  # the first of each channel's copies
                weight = weight + self.noise * weight.std(correction=0) * noise.to(weight)
            yield Fill(layer, out, weight, note="widened", source=layer)
