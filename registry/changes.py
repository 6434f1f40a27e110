"""The registry-wide order of visible changes, which lets an index ask "what is new since …?"."""

from django.db.models import F

from registry.models import ChangeCounter


def next_seq() -> int:
    """The next position; call inside a transaction, whose row lock keeps positions in commit order."""
    if not ChangeCounter.objects.filter(pk=1).update(value=F("value") + 1):
        ChangeCounter.objects.get_or_create(pk=1)
        return next_seq()
    return current_seq()


def current_seq() -> int:
    """The last position given out; 0 before the first."""
    return ChangeCounter.objects.filter(pk=1).values_list("value", flat=True).first() or 0
