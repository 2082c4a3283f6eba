{#
  Sums over the last days as they were known at the end of each day: column_Nd on day A sums a column over the events
  of dates A-N+1..A that were known by A.

  cells: one row per entity, event_date and known_date (never the earlier of the two), with counts. windows: {N: [column of the cells, ...]}.
  The result has a row for every known_date of an entity (and others: join on the days that are wanted).

  A cell counts from its known_date until N days after its event date, so it enters once and leaves each window once, and
  a running sum over these changes is the answer: linear in the cells, where joining days with the cells of their window
  grows with the square of an entity's active days, and exact for late events, which a frame over dates is not.
#}
{% macro rolling_counts(cells, entity, windows) %}
    {%- set sums = [] -%}
    {%- for days, columns in windows.items() -%}
        {%- for column in columns -%}
            {%- do sums.append({'column': column, 'days': days, 'name': column ~ '_' ~ days ~ 'd'}) -%}
        {%- endfor -%}
    {%- endfor -%}
    select
        {{ entity }},
        day
        {%- for sum in sums %},
        sum(sum({{ sum.name }})) over (partition by {{ entity }} order by day) as {{ sum.name }}
        {%- endfor %}
    from (
        select
            {{ entity }},
            known_date as day
            {%- for sum in sums %},
            case when {{ add_days('event_date', sum.days) }} > known_date then {{ sum.column }} else 0 end as {{ sum.name }}
            {%- endfor %}
        from {{ cells }}
        {%- for days in windows %}
        union all
        select
            {{ entity }},
            {{ add_days('event_date', days) }} as day
            {%- for sum in sums %},
            {{ '-' ~ sum.column if sum.days == days else '0' }} as {{ sum.name }}
            {%- endfor %}
        from {{ cells }}
        where {{ add_days('event_date', days) }} > known_date
        {%- endfor %}
    ) as changes
    group by {{ entity }}, day
{% endmacro %}
