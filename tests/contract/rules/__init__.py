"""The architecture rules: each takes a `Source` and returns its violations.

`test_architecture.py` applies them to the code; `test_architecture_rules.py` plants a fault for each of them.
"""

from collections.abc import Callable
from typing import Final

from tests.contract.rules.floats import no_float_in_money
from tests.contract.rules.idioms import idioms_exist_once
from tests.contract.rules.imports import calls_show_their_layer, ledger_has_one_entry_point, no_import_cycle
from tests.contract.rules.layers import (
    clients_hide_messages,
    convert_reads_no_clock,
    domain_is_pure,
    layers_import_downwards,
    messages_stay_at_the_edge,
    sql_is_in_the_store,
    use_cases_do_not_reach_the_wire,
)
from tests.contract.rules.packages import (
    files_are_short,
    generic_packages_name_no_business,
    imports_are_absolute,
    main_is_short,
    nothing_imports_tests,
    packages_import_downwards,
    services_are_independent,
    services_have_one_shape,
)
from tests.contract.source import Source, Violation

Rule = Callable[[Source], list[Violation]]

RULES: Final[tuple[Rule, ...]] = (
    no_float_in_money,
    packages_import_downwards,
    nothing_imports_tests,
    services_are_independent,
    imports_are_absolute,
    layers_import_downwards,
    services_have_one_shape,
    domain_is_pure,
    convert_reads_no_clock,
    use_cases_do_not_reach_the_wire,
    sql_is_in_the_store,
    messages_stay_at_the_edge,
    clients_hide_messages,
    main_is_short,
    generic_packages_name_no_business,
    files_are_short,
    no_import_cycle,
    calls_show_their_layer,
    ledger_has_one_entry_point,
    idioms_exist_once,
)
