import ast
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa

from shutterless import migrations
from shutterless.results import Arrival, _engine, metadata, migrate, open_results

ROOT = Path(__file__).parents[2]
MIGRATE = "import sys; from shutterless.results import migrate; migrate(sys.argv[1]); print('alembic' in sys.modules)"


def migrate_in_another_process(url: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-W", "error", "-c", MIGRATE, url], cwd=ROOT, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def scripts():
    from alembic.config import Config
    from alembic.script import ScriptDirectory
    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent))
    return ScriptDirectory.from_config(config)


def test_head_names_the_last_step():
    assert scripts().get_heads() == [migrations.HEAD]


def test_no_step_leads_back():
    assert [step.revision for step in scripts().walk_revisions() if hasattr(step.module, "downgrade")] == []


def test_the_steps_lead_to_the_tables_that_the_code_uses(database_url):
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    migrate(database_url)
    engine = _engine(database_url)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": same_storage})
        difference = compare_metadata(context, metadata)
        checks = {check["name"] for check in sa.inspect(connection).get_check_constraints("results")}
    engine.dispose()
    assert difference == []
    assert checks == {"results_status_check"}


def same_storage(context, _inspected, metadata_column, inspected_type, metadata_type):
    """True when the types differ; our own types count as what they are stored as."""
    stored = getattr(metadata_type, "impl_instance", metadata_type)
    return context.impl.compare_type(sa.Column("c", inspected_type), sa.Column("c", stored))


def test_ids_are_never_used_twice(database_url):
    migrate(database_url)
    results = open_results(database_url)
    for name in ("a", "b"):
        results.add_pending(name, Arrival())
    last = results.delete("b").id
    results.add_pending("c", Arrival())
    assert results.get("c").id > last
    results.close()


def test_migrating_twice_changes_nothing(database_url):
    migrate(database_url)
    results = open_results(database_url)
    results.add_pending("a", Arrival())
    migrate(database_url)
    assert results.get("a").status == "pending"
    results.close()


def test_threads_that_migrate_at_once_all_succeed(database_url):
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(migrate, [database_url] * 4))
    results = open_results(database_url)
    results.ping()
    results.close()


def test_processes_that_migrate_at_once_all_succeed(database_url):
    processes = [migrate_in_another_process(database_url) for _ in range(3)]
    for process in processes:
        _, complaint = process.communicate(timeout=120)
        assert process.returncode == 0, complaint
    results = open_results(database_url)
    results.ping()
    results.close()


def test_a_start_with_nothing_to_migrate_does_not_load_alembic(database_url):
    migrate(database_url)
    printed, complaint = migrate_in_another_process(database_url).communicate(timeout=120)
    assert printed == "False\n", complaint


def test_a_step_that_fails_leaves_the_database_as_it_was(database_url):
    engine = _engine(database_url)
    with engine.connect() as connection:
        connection.exec_driver_sql("CREATE TABLE results_in_the_way (i INTEGER)")
        connection.exec_driver_sql("CREATE INDEX results_labels ON results_in_the_way (i)")  # the last name it needs
    with pytest.raises(sa.exc.DBAPIError):
        migrate(database_url)
    with engine.connect() as connection:
        assert sa.inspect(connection).get_table_names() == ["results_in_the_way"]
        connection.exec_driver_sql("DROP TABLE results_in_the_way")
    migrate(database_url)
    engine.dispose()


def test_a_folder_with_a_percent_sign_does_not_confuse_alembic(tmp_path):
    migrate(f"sqlite:///{tmp_path}/100%/test.db")


def test_steps_only_ever_add_since_the_version_before_runs_on_their_schema_too():
    taking = {"drop_table", "drop_column", "drop_constraint", "drop_index", "rename_table", "alter_column", "execute"}
    for script in scripts().walk_revisions():
        upgrade = next(node for node in ast.parse(Path(script.path).read_text()).body
                       if isinstance(node, ast.FunctionDef) and node.name == "upgrade")
        called = {node.attr for node in ast.walk(upgrade) if isinstance(node, ast.Attribute)}
        assert called & taking == set(), script.revision


def test_the_names_of_steps_sort_by_age():
    names = [script.revision for script in scripts().walk_revisions()]
    assert names == sorted(names, reverse=True)


def test_the_hash_of_the_migrations_needs_no_library_and_stays_while_they_stay():
    code = "import sys; from shutterless.migrations import migrations_hash; print(migrations_hash(), *sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    assert shown[0] == migrations.migrations_hash()
    assert set(shown) & {"sqlalchemy", "alembic", "psycopg", "numpy"} == set()
