"""Accounts: a user comes with the namespace of the same name."""

from django.contrib.auth.models import AbstractBaseUser, User
from django.db import IntegrityError, transaction

from registry.errors import AlreadyExists, PermissionRefused
from registry.models import Namespace
from registry.names import check_owner, namespace_key


@transaction.atomic
def create_user(username: str, password: str | None = None, *, is_staff: bool = False) -> User:
    """A new user and namespace. Raises: Invalid for an illegal name, AlreadyExists for one that is taken."""
    check_owner(username)
    if Namespace.objects.filter(key=namespace_key(username)).exists():
        raise AlreadyExists(f"The name {username!r} is taken, or too close to one that is. Choose another.")
    try:
        user = User.objects.create_user(username, password=password, is_staff=is_staff)
        Namespace.objects.create(name=username, key=namespace_key(username), owner=user)
    except IntegrityError as error:
        raise AlreadyExists(f"The name {username!r} is taken. Choose another.") from error
    return user


def own_namespace(user: AbstractBaseUser, owner: str) -> Namespace:
    """The namespace `owner`, if the user may write there. Raises: PermissionRefused."""
    namespace = Namespace.objects.filter(name=owner, owner_id=user.pk).first()
    if namespace is None:
        mine = ", ".join(Namespace.objects.filter(owner_id=user.pk).values_list("name", flat=True)) or "none"
        raise PermissionRefused(f"You may not write to {owner}/. Your namespaces: {mine}.")
    return namespace
