{#
  No two rows of a whole table share what a column holds in the rows tested: what was redone must not repeat what
  stands from before.
#}
{% test unique_in(model, column_name, table) %}
    select {{ column_name }}
    from {{ table }}
    {%- if model | string != table | string %}
    where {{ column_name }} in (select {{ column_name }} from {{ model }})
    {%- endif %}
    group by {{ column_name }}
    having count(*) > 1
{% endtest %}
