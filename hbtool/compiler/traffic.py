"""Which tensors pass between a group of layers and everything else: what it reads from DDR and writes to it."""

from __future__ import annotations

from hbtool.compiler.addresses import Addresses, Storage
from hbtool.compiler.layers import Layer, Net, Tensor
from hbtool.target.target import Target


class Traffic:
    """The tensors of a segment by layer. Layers of addresses only neither read nor write: who uses their result does.

    Attributes:
        spans: first and last layer that touches a storage; an input comes when it is needed.
        crossing: storages that hold inputs or outputs of the segment.
        touched: storages that a layer reads or writes.
    """

    def __init__(self, net: Net, addresses: Addresses, target: Target) -> None:
        self.spans: dict[Storage, tuple[int, int]] = {}
        self.crossing: set[Storage] = set()
        self.touched: list[list[Storage]] = []
        self._reads: list[list[tuple[Storage, Tensor, int, int]]] = []
        self._writes: list[list[tuple[Storage, Tensor, int, int]]] = []
        free = addresses.free_layers
        made = _made(net, addresses.moving)
        used = _used(net, addresses)
        self._leaving = {t for t in made if _leaves(t, addresses.moving)}
        size = {t: target.layout(t.shape, t.item_bytes).bytes for t in made}
        for layer in net.layers:
            storages = dict.fromkeys(addresses.places[t].storage for t in (*layer.outputs, *_computed(layer)))
            self.touched.append(list(storages))
            for storage in storages:
                first, _ = self.spans.get(storage, (layer.number, 0))
                self.spans[storage] = (first, layer.number)
            reads = [] if layer in free else dict.fromkeys(_computed(layer))
            self._reads.append([(addresses.places[t].storage, t, made[t], size[t]) for t in reads])
            writes = () if layer in free else layer.outputs
            self._writes.append([(addresses.places[t].storage, t, used[t], size[t]) for t in writes])
        for tensor in made:
            storage = addresses.places[tensor].storage
            if tensor.is_input or tensor.is_output:
                self.crossing.add(storage)
            if tensor.is_input:  # read in pieces where it is too large; it does not have to be there before
                self.spans[storage] = (self.spans[storage][1],) * 2 if storage in self.spans else (0, 0)

    def moved_bytes(self, first: int, last: int, staying: set[Storage]) -> int:
        """DDR bytes of layers [first, last] run as one group; constants are not counted."""
        moved = 0
        seen: set[Tensor] = set()
        for n in range(first, last + 1):
            for storage, tensor, producer, size in self._reads[n]:
                if producer < first and tensor not in seen and (producer < 0 or storage not in staying):
                    seen.add(tensor)
                    moved += size
            for storage, tensor, consumer, size in self._writes[n]:
                if tensor in self._leaving or (consumer > last and storage not in staying):
                    moved += size
        return moved

    def rolling(self, first: int, last: int, staying: set[Storage]) -> tuple[list[Storage], int]:
        """Storages of which a group holds a band of rows, and the bytes of those that stay meanwhile."""
        rolling: list[Storage] = []
        touched = {s: None for n in range(first, last + 1) for s in self.touched[n]}
        stay = 0
        for storage in touched:
            start, stop = self.spans[storage]
            inside = start >= first and stop <= last and storage not in self.crossing
            if inside or storage not in staying:
                rolling.append(storage)
        for storage in staying:
            start, stop = self.spans[storage]
            if start <= last and stop >= first and (start < first or stop > last or storage in self.crossing):
                stay += storage.layout.bytes
        return rolling, stay


def _computed(layer: Layer) -> list[Tensor]:
    return [t for _, t in layer.computed]


def _made(net: Net, moving: frozenset[Layer]) -> dict[Tensor, int]:
    """First layer that computes (part of) a tensor; -1 for inputs."""
    made = {t: -1 for t in net.tensors if t.is_input}
    for layer in net.layers:
        first = min((made[t] for t in _computed(layer)), default=layer.number) if layer in moving else layer.number
        for out in layer.outputs:
            made[out] = first
    return made


def _used(net: Net, addresses: Addresses) -> dict[Tensor, int]:
    """Last layer that reads a tensor, also as part of what is made of its bytes; -1 for none."""
    used = {t: -1 for t in net.tensors}
    for layer in reversed(net.layers):
        last = -1 if layer in addresses.free_layers else layer.number
        if layer in addresses.moving:
            last = max(last, *(used[t] for t in layer.outputs))
        for tensor in _computed(layer):
            used[tensor] = max(used[tensor], last)
    return used


def _leaves(tensor: Tensor, moving: frozenset[Layer]) -> bool:
    return tensor.is_output or any(_leaves(t, moving) for c in tensor.consumers if c in moving for t in c.outputs)
