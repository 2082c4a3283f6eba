{#
  What an incremental run redoes. Three vars say it (dates, inclusive; null is open-ended):

  arrived_from        lake days from here on are read again. fct_events goes by it.
  known_from          rows about what was known on a day from here on. What a day knows depends on nothing that becomes
                      known later, so no earlier row can differ. State (int_*) and features go by it.
  min_date, max_date  event dates of all rows of fct_events that may differ. The daily marts go by it.

  A table that does not exist yet, and --full-refresh, take everything whatever the vars say: a window put into an
  empty table would look like a complete one.
#}

{# A date var as a literal; none where this run takes everything. #}
{% macro window_day(name) %}
    {{ return("date '" ~ var(name) ~ "'" if is_incremental() and var(name) is not none else none) }}
{% endmacro %}


{# The condition that an event arrived in the window. #}
{% macro arrived_in_window() %}
    {{ return(at_or_after('arrival_date', window_day('arrived_from'))) }}
{% endmacro %}


{# The condition that a date of an event lies in the window. #}
{% macro in_event_window(column) %}
    {{ return(between_vars(column) if is_incremental() else 'true') }}
{% endmacro %}


{#
  The condition that an event became known in the window. It names arrival_date too, by which events are stored, so
  that an engine can leave old events unread: nothing arrives more than a day before it happens, of which a test is
  the guard.
#}
{% macro event_known_in_window() %}
    {%- set since = window_day('known_from') -%}
    {{ return("arrival_date >= " ~ add_days(since, -1) ~ " and " ~ known_date() ~ " >= " ~ since if since else 'true') }}
{% endmacro %}


{# The condition that a row of what was known on a day lies in the window. #}
{% macro known_in_window(column='known_date') %}
    {{ return(at_or_after(column, window_day('known_from'))) }}
{% endmacro %}


{# A date, or the eve of the window where it lies before that: what was known before the window counts as one day. #}
{% macro not_before_the_eve(column) %}
    {%- set since = window_day('known_from') -%}
    {{ return("greatest(" ~ column ~ ", " ~ add_days(since, -1) ~ ")" if since else column) }}
{% endmacro %}


{% macro at_or_after(column, day) %}
    {{ return(column ~ " >= " ~ day if day else 'true') }}
{% endmacro %}


{% macro between_vars(column) %}
    {%- set bounds = [] -%}
    {%- if var('min_date') is not none %}{% do bounds.append(column ~ " >= date '" ~ var('min_date') ~ "'") %}{% endif -%}
    {%- if var('max_date') is not none %}{% do bounds.append(column ~ " <= date '" ~ var('max_date') ~ "'") %}{% endif -%}
    {{ return(bounds | join(' and ') if bounds else 'true') }}
{% endmacro %}


{#
  Incremental strategies: delete the window, insert the window. dbt's own delete+insert deletes only what the new rows
  name, so an event or a day that has left the lake would stay in the table.
#}
{% macro get_incremental_event_window_sql(args) %}
    {{ replace_where(args, between_vars('event_date')) }}
{% endmacro %}


{% macro get_incremental_arrival_window_sql(args) %}
    {{ replace_where(args, at_or_after('arrival_date', window_day('arrived_from'))) }}
{% endmacro %}


{% macro get_incremental_known_window_sql(args) %}
    {{ replace_where(args, at_or_after('known_date', window_day('known_from'))) }}
{% endmacro %}


{% macro get_incremental_feature_window_sql(args) %}
    {%- set since = window_day('known_from') -%}
    {{ replace_where(args, at_or_after('event_timestamp', end_of_day(since) if since else none)) }}
{% endmacro %}


{% macro replace_where(args, condition) %}
    {%- set columns = args['dest_columns'] | map(attribute='quoted') | join(', ') -%}
    delete from {{ args['target_relation'] }} where {{ condition }};
    insert into {{ args['target_relation'] }} ({{ columns }})
    select {{ columns }} from {{ args['temp_relation'] }}
{% endmacro %}


{#
  The condition that a row of a dated mart may have been redone by this run, or by the last one. Everything, where no
  window is told.
#}
{% macro redone(column) %}
    {%- if flags.FULL_REFRESH or var('known_from') is none -%}
        {{ return('true') }}
    {%- elif column == 'event_date' -%}
        {{ return(between_vars('event_date')) }}
    {%- elif column == 'event_timestamp' -%}
        {{ return("event_timestamp >= " ~ end_of_day("date '" ~ var('known_from') ~ "'")) }}
    {%- else -%}
        {{ return(column ~ " >= date '" ~ var('known_from') ~ "'") }}
    {%- endif -%}
{% endmacro %}


{#
  dbt asks this what a generic data test shall read. Of dated marts (meta.part_by) it reads what has been redone: the
  rest passed before, and was not written since. Promises between rows of different windows are tests of their own,
  which are told the whole table by another argument.
#}
{% macro get_where_subquery(relation) -%}
    {%- set tested = graph.nodes.get(model.get('attached_node')) if execute else none -%}
    {%- set conditions = [] -%}
    {%- if config.get('where') %}{% do conditions.append('(' ~ config.get('where') ~ ')') %}{% endif -%}
    {%- if tested and tested.config.meta.get('part_by') -%}
        {%- do conditions.append(redone(tested.config.meta['part_by'])) -%}
    {%- endif -%}
    {%- if conditions and conditions != ['true'] -%}
        {{ return('(select * from ' ~ relation ~ ' where ' ~ conditions | join(' and ') ~ ') as dbt_subquery') }}
    {%- endif -%}
    {{ return(relation) }}
{%- endmacro %}
