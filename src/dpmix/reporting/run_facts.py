"""What a run's public files say of it: all that its page is made of."""

from dataclasses import dataclass

from dpmix.config import Config
from dpmix.data.load import public_name
from dpmix.errors import DpmixError
from dpmix.reporting.audit_model import AuditReport
from dpmix.reporting.metrics_model import Metrics, read_metrics
from dpmix.reporting.statement_model import Statement, read_statement
from dpmix.settings import InputConfig
from dpmix.training.run_folder import RunFolder


@dataclass(frozen=True)
class RunFacts:
    """A run, as anyone may know it.

    Attributes:
        config: its settings.
        statement: its guarantee.
        metrics: what was measured on the test split.
        audit: of these settings, if one was made.
    """

    config: Config
    statement: Statement
    metrics: Metrics
    audit: AuditReport | None = None

    @property
    def data_name(self) -> str:
        """What the data set is called."""
        return public_name(self.config.data.data)

    @property
    def input(self) -> InputConfig:
        """What the model takes."""
        assert self.config.input is not None
        return self.config.input


def read_facts(folder: RunFolder) -> RunFacts:
    """Read the public files of a run, and nothing of its diagnostics.

    Raises:
        DpmixError: no run's folder, or a file that is missing or not as a run writes it.
    """
    folder.refuse_if_missing(folder.privacy)
    statement = read_statement(folder.privacy)
    config = Config.load(folder.config)
    if config.input is None:
        raise DpmixError(
            f"'{folder.config}' has no section 'input'; expected the config.yaml that the run wrote"
        )
    return RunFacts(config, statement, read_metrics(folder.metrics))
