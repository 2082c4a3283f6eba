{#
  The window of event dates, vars min_date..max_date (inclusive, null is open-ended), that an incremental mart
  rebuilds. A table that does not exist yet, and --full-refresh, take everything whatever the vars say: a window
  put into an empty table would look like a complete one.
#}

{# The first event date of the window as a literal; none where the window has no start. #}
{% macro window_start() %}
    {{ return("date '" ~ var('min_date') ~ "'" if is_incremental() and var('min_date') is not none else none) }}
{% endmacro %}


{# The condition that a date lies in the window that this run rebuilds. #}
{% macro in_event_window(column) %}
    {{ return(between_vars(column) if is_incremental() else 'true') }}
{% endmacro %}


{% macro between_vars(column) %}
    {%- set bounds = [] -%}
    {%- if var('min_date') is not none %}{% do bounds.append(column ~ " >= date '" ~ var('min_date') ~ "'") %}{% endif -%}
    {%- if var('max_date') is not none %}{% do bounds.append(column ~ " <= date '" ~ var('max_date') ~ "'") %}{% endif -%}
    {{ return(bounds | join(' and ') if bounds else 'true') }}
{% endmacro %}


{#
  Incremental strategy `event_window`: delete the window, insert the window. dbt's own delete+insert deletes only
  what the new rows name, so an event or a day that has left the lake would stay in the table.
#}
{% macro get_incremental_event_window_sql(args) %}
    {%- set columns = args['dest_columns'] | map(attribute='quoted') | join(', ') -%}
    delete from {{ args['target_relation'] }} where {{ between_vars('event_date') }};
    insert into {{ args['target_relation'] }} ({{ columns }})
    select {{ columns }} from {{ args['temp_relation'] }}
{% endmacro %}
