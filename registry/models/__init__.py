"""What exists: one file per noun."""

from registry.models.accounts import AccessToken, Namespace
from registry.models.adapters import Adapter, AdapterTag, BaseModel, Blob, ChangeCounter, Ref, Revision, RevisionFile
from registry.models.imports import ImportedFolder
from registry.models.jobs import Job, JobLog, WorkerHeartbeat
from registry.models.merges import Merge, MergeArtefact, MergeInput
from registry.models.searches import Search

__all__ = [
    "AccessToken",
    "Adapter",
    "AdapterTag",
    "BaseModel",
    "Blob",
    "ChangeCounter",
    "ImportedFolder",
    "Job",
    "JobLog",
    "Merge",
    "MergeArtefact",
    "MergeInput",
    "Namespace",
    "Ref",
    "Revision",
    "RevisionFile",
    "Search",
    "WorkerHeartbeat",
]
