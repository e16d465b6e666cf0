"""The type checker that the tests run the package under: annotations and shapes must hold."""

from beartype import BeartypeConf, beartype

# An int will do where a float is expected, as for every static checker.
checked = beartype(conf=BeartypeConf(is_pep484_tower=True))
