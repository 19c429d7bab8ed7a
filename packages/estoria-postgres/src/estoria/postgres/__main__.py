"""``python -m estoria.postgres [SCHEMA]`` prints the SQL of the schema."""

import sys

from estoria.postgres import schema_sql

sys.stdout.write(schema_sql(sys.argv[1]) if len(sys.argv) > 1 else schema_sql())
