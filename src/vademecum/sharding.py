"""Expert parallelism: the experts of every MoE layer shared out over processes, and put together again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from vademecum.attached import ROOT
from vademecum.experts.dispatch import AllToAll, Local
from vademecum.experts.mixture import ExpertMixture
from vademecum.experts.mlp import Experts
from vademecum.surgery import memories

Model = TypeVar("Model", bound=nn.Module)

#: Where DistributedDataParallel looks for the names of parameters that it must leave alone.
IGNORED = "_ddp_params_and_buffers_to_ignore"


def shard_experts(model: Model, group: dist.ProcessGroup | None = None) -> Model:
    """Leave each of P processes E/P experts of every MoE layer, in place; tokens travel to them and back.

    Every process calls it, after ``vm.attach`` or ``vm.load`` and before the model is compiled, wrapped in
    DistributedDataParallel or given an optimizer. All then begin with the experts of rank 0; gradients are dropped.
    A shared expert and the router stay on every process.

    Losses and gradients are those of the whole model under DistributedDataParallel, with its own batch in each
    process. It averages the gradients of everything but the experts here, which it leaves alone: their gradients
    hold the tokens of all processes already, divided by P. A caller without it averages the other gradients over the
    processes. Clip with :func:`clip_grad_norm_`, since a norm of what lies here alone differs from process to process.

    All processes must run the same number of forwards and backwards, evaluation and generation included; a
    process that has run out of texts gives the model old ones, and its loss no weight.

    Args:
        model: a model with a MoE among its memories.
        group: the processes, for a backend other than the default group's; it must hold all of them, because balance
            is counted over all. None takes the default group.

    Returns:
        ``model`` itself.

    Raises:
        ValueError: nothing is attached, no MoE is, the experts are shared out already or cannot be evenly, or
            torch.distributed was not started. The model is then unchanged.
    """
    parts = tuple(_mixtures(model))
    if not parts:
        attached = ", ".join(memories(model).kinds) or "none"
        raise ValueError(
            f"this {type(model).__name__} has no MoE among its memories ({attached}), so there are no experts to share "
            f"out; attach one, such as vm.attach(model, vm.MoE(experts=8))."
        )
    if not (dist.is_available() and dist.is_initialized()):
        raise ValueError(
            "shard_experts was called in a process that torch.distributed knows nothing of; call "
            "torch.distributed.init_process_group first (torchrun starts the processes), or leave the experts whole."
        )
    size = dist.get_world_size(group)
    if size != dist.get_world_size():
        members = f"{size} of the {dist.get_world_size()} processes" if size > 0 else "not this process"
        raise ValueError(
            f"the group given to shard_experts holds {members}, but experts are shared out over all that train "
            f"together; leave group out, or start a job of its own for those processes."
        )
    if any(_is_sharded(part.experts) for part in parts):
        raise ValueError(
            f"the experts of this {type(model).__name__} are shared out over {size} processes already; call "
            f"vm.gather_experts(model) first to do it anew."
        )
    for part in parts:
        _require_even(part, size)
    for part in parts:
        _shard(part.experts, group)
    if not isinstance(getattr(model, IGNORED, None), _Sharded):
        setattr(model, IGNORED, _Sharded(model, getattr(model, IGNORED, ())))
    return model


def gather_experts(model: Model) -> Model:
    """Put all experts back on every process, in place: the inverse of :func:`shard_experts`, called by every process.

    Gradients are dropped. The parameters remain the same objects, so an optimizer's state fits again once the model is
    sharded anew over as many processes: gather, ``vm.save`` in one process, shard, go on.

    Returns:
        ``model`` itself.

    Raises:
        ValueError: nothing is attached, or the experts are whole already.
    """
    sharded = [part.experts for part in _mixtures(model) if _is_sharded(part.experts)]
    if not sharded:
        raise ValueError(
            f"the experts of this {type(model).__name__} are whole already; gather_experts undoes vm.shard_experts."
        )
    for experts in sharded:
        assert isinstance(experts.dispatch, AllToAll)
        group = experts.dispatch.group
        for parameter in experts.parameters():
            whole = parameter.data.new_empty(experts.experts, *parameter.shape[1:])
            dist.all_gather(list(whole.chunk(dist.get_world_size(group))), parameter.data, group=group)
            parameter.data, parameter.grad = whole, None
        experts.dispatch = Local()
    return model


def clip_grad_norm_(model: nn.Module, max_norm: float) -> Tensor:
    """``torch.nn.utils.clip_grad_norm_`` of a sharded model, called by every process after the backward.

    Returns:
        The norm of all gradients before clipping, those of experts held elsewhere included; the same everywhere.

    Raises:
        ValueError: the experts are not sharded, or nothing is attached.
    """
    sharded = [part.experts for part in _mixtures(model) if _is_sharded(part.experts)]
    if not sharded:
        raise ValueError(
            f"the experts of this {type(model).__name__} are whole; clip with "
            f"torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm={max_norm:g})."
        )
    here = {id(parameter) for experts in sharded for parameter in experts.parameters()}
    parameters = [parameter for parameter in model.parameters() if parameter.grad is not None]
    own = [p.grad for p in parameters if id(p) in here and p.grad is not None]
    common = [p.grad for p in parameters if id(p) not in here and p.grad is not None]
    # A process whose experts got no gradient (they are frozen) takes part in the sum like the others.
    square = nn.utils.get_total_norm(own).to(sharded[0].up.device).square().float()
    dispatch = sharded[0].dispatch
    assert isinstance(dispatch, AllToAll)
    dist.all_reduce(square, group=dispatch.group)
    norm = torch.sqrt(square + nn.utils.get_total_norm(common).to(square).square())
    nn.utils.clip_grads_with_norm_(parameters, max_norm, norm)
    return norm


class _Sharded:
    """Names of the parameters that lie sharded, as the model is when it is asked, after those ``before``.

    Asked anew each time, because names kept on the model would outlive ``detach`` and ``gather_experts``, and
    DistributedDataParallel would then leave whole experts alone too.
    """

    def __init__(self, model: nn.Module, before: Iterable[str]) -> None:
        self.model, self.before = model, tuple(before)

    def __iter__(self) -> Iterator[str]:
        yield from self.before
        if getattr(self.model, ROOT, None) is not None:
            experts = (part.experts for part in _mixtures(self.model))
            here = {id(p) for each in experts if _is_sharded(each) for p in each.parameters()}
            yield from (name for name, parameter in self.model.named_parameters() if id(parameter) in here)

    def __contains__(self, name: object) -> bool:
        return name in set(self)


def _mixtures(model: nn.Module) -> Iterator[ExpertMixture]:
    return (part for _, _, part in memories(model).parts() if isinstance(part, ExpertMixture))


def _is_sharded(experts: Experts) -> bool:
    return isinstance(experts.dispatch, AllToAll)


def _require_even(part: ExpertMixture, size: int) -> None:
    experts = part.experts.experts
    if experts % size == 0:
        return
    below, above = experts // size * size, -(-experts // size) * size
    near = [str(number) for number in (below, above) if number >= part.top_k and number > 0]
    raise ValueError(
        f"{part.key} has {experts} experts, which {size} processes cannot share evenly; write "
        f"MoE(experts={' or '.join(near)}), or start a number of processes that divides {experts}."
    )


@torch.no_grad()
def _shard(experts: Experts, group: dist.ProcessGroup | None) -> None:
    rank, held = dist.get_rank(group), experts.experts // dist.get_world_size(group)
    for parameter in experts.parameters():
        # Processes may have drawn different experts; those of rank 0 are the model's, as in any data parallelism.
        whole = parameter.data.contiguous()
        dist.broadcast(whole, group=group, group_src=0)
        parameter.data, parameter.grad = whole[rank * held : (rank + 1) * held].clone(), None
    experts.dispatch = AllToAll(group)
