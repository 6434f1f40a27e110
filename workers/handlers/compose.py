"""`compose`: trains the gates of a composition on its experts' own samples, and stores it."""

from contextlib import ExitStack

from safetensors.torch import save_file

from lora.composing import GATES
from lora.losses import ends
from lora.runtime.gate_training import train_gates
from lora.runtime.loading import in_bfloat16
from lora.weights import AdapterFile
from registry import jobs
from registry.intake import NewFile
from registry.merge_samples import examples_of
from registry.merges import local_file
from registry.storage import scratch_folder, sha256_of
from retrieval.composing import admit, check_name, prepare
from retrieval.composition_jobs import order_of
from workers.base_models import base_for
from workers.runner import Work


def handle(work: Work) -> None:
    """The composition is there when the job has succeeded. Raises: BaseNotHere, NotTrainable, DoesNotFit, Conflict."""
    order, owner = order_of(work.job), work.job.owner
    steps, seed = work.job.payload["steps"], work.job.payload["seed"]
    check_name(owner, order.name)
    base = base_for(work, order.base_model, "gates", 0.95)
    with ExitStack() as stack:
        items = [local_file(revision, stack) for revision in order.revisions]
        files = [stack.enter_context(AdapterFile(item.weights_path, item.layout)) for item in items]
        work.log(f"Training gates of {order.type} over {len(files)} experts in {steps} steps")
        examples = [examples_of(revision) for revision in order.revisions]
        kind, params = order.type, order.params
        trained = train_gates(in_bfloat16(base), kind, params, files, examples, steps=steps, seed=seed)
        losses = [round(loss, 4) for loss in trained.losses]
        first, last = ends(losses)
        work.log(f"The loss of the answers went from {first:.3f} to {last:.3f} (means of ten steps)")
        path = stack.enter_context(scratch_folder()) / GATES
        save_file(trained.tensors, path)
        told = {"steps": steps, "seed": seed, "losses": losses}
        prepared = prepare(order, NewFile(path, sha256_of(path)), told)
    with jobs.finishing(work.job, {"composition": order.name, "revision": prepared.row.commit} | told):
        admit(owner, prepared)
