{# The total order of a user's events: by time, and among equal times by the source's own order. #}
{% macro event_order() -%}
    event_ts, arrival_date, source_file, source_row
{%- endmacro %}


{#
  The day at whose end an event has both happened and arrived. Mostly its arrival day; an event from a clock that runs
  ahead arrives minutes before it happens, and around midnight these are two days.
#}
{% macro known_date() -%}
    greatest(arrival_date, event_date)
{%- endmacro %}


{# True for an event in which a user chose an item. #}
{% macro is_interaction() -%}
    (item_id is not null and event_type in ({% for type in var('history_event_types') %}'{{ type | replace("'", "''") }}'{{ ', ' if not loop.last }}{% endfor %}))
{%- endmacro %}


{# The counts by event type that item_daily and user_daily share. #}
{% macro event_type_counts() -%}
    {%- set counted = {
        'impressions': 'impression', 'views': 'view', 'clicks': 'click',
        'carts': 'cart', 'purchases': 'purchase', 'ratings': 'rating',
    } -%}
    {%- for column, type in counted.items() %}
    count(case when event_type = '{{ type }}' then 1 end) as {{ column }},
    {%- endfor %}
    count(case when event_type not in ('{{ counted.values() | join("', '") }}') then 1 end) as other,
    count(case when {{ is_interaction() }} then 1 end) as interactions
{%- endmacro %}
