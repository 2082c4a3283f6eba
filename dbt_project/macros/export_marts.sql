{#
  dbt run-operation export_marts --args '{target: DIR, period: week, ranges: {event_date: [2025-03-03, null]}}'

  Writes every model under marts/ as Parquet, ordered by the key that its meta states: to DIR/NAME.parquet, or, where the
  meta names a column `part_by`, to DIR/NAME/PART.parquet, a part for each period (day, week, month, year) of that column,
  named by the period's first date. Of a column in `ranges`, only the parts between the two dates are written, inclusive; null
  is open-ended. A dated mart without a row leaves one empty part, `none`. DIR and the folders in it must exist; the caller
  publishes them.
#}
{% macro export_marts(target, period='week', ranges={}) %}
    {% if execute %}
        {% for mart in graph.nodes.values() | selectattr('resource_type', 'equalto', 'model') | sort(attribute='name') if 'marts' in mart.fqn %}
            {% set key = mart.config.meta.get('key') %}
            {% if not key %}
                {% do exceptions.raise_compiler_error(mart.original_file_path ~ ': a mart needs meta.key, the columns that it is sorted by') %}
            {% endif %}
            {% set relation = api.Relation.create(database=mart.database, schema=mart.schema, identifier=mart.alias) %}
            {% set column = mart.config.meta.get('part_by') %}
            {% set has_arrays = '[]' in mart.columns.values() | map(attribute='data_type') | join %}
            {% if column %}
                {% set is_date = mart.columns[column].data_type == 'date' %}
                {% do export_parts(relation, column, is_date, key, target ~ '/' ~ mart.name, period, ranges.get(column), has_arrays) %}
            {% else %}
                {% do run_query(write_parquet(select_sorted(relation, key), target ~ '/' ~ mart.name ~ '.parquet', has_arrays)) %}
            {% endif %}
            {% do log('exported ' ~ mart.name, info=true) %}
        {% endfor %}
    {% endif %}
{% endmacro %}


{% macro export_parts(relation, column, is_date, key, folder, period, range, has_arrays) %}
    {% set day = column if is_date else utc_date(column) %}
    {% set parts = run_query('select distinct ' ~ period_start(day, period) ~ ' as part from ' ~ relation ~ ' order by part').columns[0].values() %}
    {% set bounds %}
        select
            {{ period_start("date '" ~ range[0] ~ "'", period) if range and range[0] else 'null' }},
            {{ period_start("date '" ~ range[1] ~ "'", period) if range and range[1] else 'null' }}
    {% endset %}
    {% set first, last = run_query(bounds).rows[0].values() %}
    {% if not parts %}
        {% do run_query(write_parquet(select_sorted(relation, key), folder ~ '/none.parquet', has_arrays)) %}
    {% endif %}
    {% for part in parts if (first is none or part >= first) and (last is none or part <= last) %}
        {% set next_part = run_query('select ' ~ next_period("date '" ~ part ~ "'", period)).rows[0][0] %}
        {% set start, end = (["date '" ~ part ~ "'", "date '" ~ next_part ~ "'"] if is_date else [moment(part), moment(next_part)]) %}
        {% set condition = column ~ ' >= ' ~ start ~ ' and ' ~ column ~ ' < ' ~ end %}
        {% do run_query(write_parquet(select_sorted(relation, key, condition), folder ~ '/' ~ part ~ '.parquet', has_arrays)) %}
    {% endfor %}
{% endmacro %}


{% macro select_sorted(relation, key, condition='true') -%}
    select * from {{ relation }} where {{ condition }} order by {{ key | join(', ') }}
{%- endmacro %}
