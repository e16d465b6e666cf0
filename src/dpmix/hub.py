"""What a model hub's failures mean, each in one line with its remedy.

Guarantee: nothing here fetches anything.
"""

from dpmix.errors import DpmixError, one_line


def hub_error(model: str, error: Exception, *, download: bool, elsewhere: str) -> DpmixError:
    """The error for `model` that could not be had from the hub or its local cache.

    Args:
        model: its hub name.
        error: what huggingface_hub, or a library on top of it, raised.
        download: whether fetching was allowed.
        elsewhere: how to bring the model by hand.
    """
    from huggingface_hub.errors import (
        GatedRepoError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    chain = _chain(error)
    if any(isinstance(cause, GatedRepoError) for cause in chain):
        return DpmixError(
            f"model '{model}' is gated: accept its licence on its page and log in (hf auth login), "
            f"or {elsewhere}"
        )
    if any(isinstance(cause, RevisionNotFoundError) for cause in chain):
        return DpmixError(f"model '{model}' has no such revision; check --revision")
    if any(isinstance(cause, RepositoryNotFoundError) for cause in chain):
        return DpmixError(
            f"no model '{model}' on the hub, or it is private and you are not logged in; check the "
            f"name, log in (hf auth login), or {elsewhere}"
        )
    if not download:
        return DpmixError(
            f"no folder '{model}', and no model of that name in the hub's local cache; give "
            f"--download to fetch it, or {elsewhere}"
        )
    reason = one_line(chain[-1])
    return DpmixError(f"model '{model}' can't be fetched ({reason}); no network? {elsewhere}")


def _chain(error: BaseException) -> list[BaseException]:
    """The error and what caused it, outermost first."""
    causes, current = [], error
    while current is not None and current not in causes:
        causes.append(current)
        current = current.__cause__ or current.__context__  # type: ignore[assignment]
    return causes
