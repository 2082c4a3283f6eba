{#
  Everything that engines spell differently. Models call these names only; a second engine is a second
  implementation of each (`spark__...`), and a missing one fails with the macro's name.
#}

{# The UTC date of a moment. #}
{% macro utc_date(moment) %}{{ return(adapter.dispatch('utc_date', 'tessera')(moment)) }}{% endmacro %}

{% macro duckdb__utc_date(moment) -%}
    cast({{ moment }} at time zone 'UTC' as date)
{%- endmacro %}


{# The UTC midnight that begins a date (YYYY-MM-DD), as a literal. #}
{% macro moment(day) %}{{ return(adapter.dispatch('moment', 'tessera')(day)) }}{% endmacro %}

{% macro duckdb__moment(day) -%}
    timestamp with time zone '{{ day }} 00:00:00+00'
{%- endmacro %}


{# The UTC midnight that ends a date: the first moment at which the whole day is known. #}
{% macro end_of_day(day) %}{{ return(adapter.dispatch('end_of_day', 'tessera')(day)) }}{% endmacro %}

{% macro duckdb__end_of_day(day) -%}
    (cast({{ day }} + 1 as timestamp) at time zone 'UTC')
{%- endmacro %}


{# A date, moved by a whole number of days. #}
{% macro add_days(day, days) %}{{ return(adapter.dispatch('add_days', 'tessera')(day, days)) }}{% endmacro %}

{% macro duckdb__add_days(day, days) -%}
    ({{ day }} + {{ days }})
{%- endmacro %}


{# The first date of the period (day, week from Monday, month, year) that a date lies in. #}
{% macro period_start(day, period) %}{{ return(adapter.dispatch('period_start', 'tessera')(day, period)) }}{% endmacro %}

{% macro duckdb__period_start(day, period) -%}
    cast(date_trunc('{{ period }}', {{ day }}) as date)
{%- endmacro %}


{# The first date of the period after the one that starts on a date. #}
{% macro next_period(day, period) %}{{ return(adapter.dispatch('next_period', 'tessera')(day, period)) }}{% endmacro %}

{% macro duckdb__next_period(day, period) -%}
    cast({{ day }} + interval 1 {{ period }} as date)
{%- endmacro %}


{# Milliseconds since 1970-01-01 UTC. #}
{% macro epoch_ms(moment) %}{{ return(adapter.dispatch('epoch_ms', 'tessera')(moment)) }}{% endmacro %}

{% macro duckdb__epoch_ms(moment) -%}
    epoch_ms({{ moment }})
{%- endmacro %}


{# Days, with their fraction, from one moment to a later one. #}
{% macro days_between(earlier, later) %}{{ return(adapter.dispatch('days_between', 'tessera')(earlier, later)) }}{% endmacro %}

{% macro duckdb__days_between(earlier, later) -%}
    ((epoch_us({{ later }}) - epoch_us({{ earlier }})) / 86400000000.0)
{%- endmacro %}


{# Columns as one value, compared by the first, then the second, and so on. #}
{% macro tuple_of(columns) %}{{ return(adapter.dispatch('tuple_of', 'tessera')(columns)) }}{% endmacro %}

{% macro duckdb__tuple_of(columns) -%}
    row({{ columns }})
{%- endmacro %}


{# A number that equal values share, and others seldom. #}
{% macro hash_of(value) %}{{ return(adapter.dispatch('hash_of', 'tessera')(value)) }}{% endmacro %}

{% macro duckdb__hash_of(value) -%}
    hash({{ value }})
{%- endmacro %}


{# Of a group, the value of one column in the row that has the highest of another. #}
{% macro value_at_latest(value, moment) %}{{ return(adapter.dispatch('value_at_latest', 'tessera')(value, moment)) }}{% endmacro %}

{% macro duckdb__value_at_latest(value, moment) -%}
    arg_max({{ value }}, {{ moment }})
{%- endmacro %}


{#
  An array of a group's records (see `record`), sorted by their first field. An aggregate that sorts, as in
  array_agg(... order by ...), would need several times the memory.
#}
{% macro sorted_array_of(value) %}{{ return(adapter.dispatch('sorted_array_of', 'tessera')(value)) }}{% endmacro %}

{% macro duckdb__sorted_array_of(value) -%}
    list_sort(array_agg({{ value }}))
{%- endmacro %}


{# The elements of an array from one position to another (from 1, inclusive), as far as there are any. #}
{% macro slice_array(array, first, last) %}{{ return(adapter.dispatch('slice_array', 'tessera')(array, first, last)) }}{% endmacro %}

{% macro duckdb__slice_array(array, first, last) -%}
    {{ array }}[greatest({{ first }}, 1):{{ last }}]
{%- endmacro %}


{# An array of a type that holds nothing. #}
{% macro empty_array(type) %}{{ return(adapter.dispatch('empty_array', 'tessera')(type)) }}{% endmacro %}

{% macro duckdb__empty_array(type) -%}
    cast([] as {{ type }}[])
{%- endmacro %}


{# The first element of an array; null where it is empty. #}
{% macro first_element(array) %}{{ return(adapter.dispatch('first_element', 'tessera')(array)) }}{% endmacro %}

{% macro duckdb__first_element(array) -%}
    {{ array }}[1]
{%- endmacro %}


{#
  An amount whose sums do not depend on the order of addition, as sums of doubles do: nine decimals, exact.
  Null for what is no amount (NaN, infinities, 10^15 and beyond), lest one broken row overflow every sum it is in.
#}
{% macro exact_amount(value) %}{{ return(adapter.dispatch('exact_amount', 'tessera')(value)) }}{% endmacro %}

{% macro duckdb__exact_amount(value) -%}
    case when abs({{ value }}) < 1e15 then cast({{ value }} as decimal(38, 9)) end
{%- endmacro %}


{#
  Writes a query to one zstd Parquet file; has_arrays tells that some columns are arrays.

  DuckDB gives the dictionary of a column up where it has more entries than a fifth of the rows, which the elements of
  arrays soon have. Without it, reading arrays of strings takes more than twice as long.
#}
{% macro write_parquet(query, path, has_arrays=false) %}{{ return(adapter.dispatch('write_parquet', 'tessera')(query, path, has_arrays)) }}{% endmacro %}

{% macro duckdb__write_parquet(query, path, has_arrays) -%}
    copy ({{ query }}) to '{{ path | replace("'", "''") }}' (format parquet, compression zstd{{ ', dictionary_size_limit 100000' if has_arrays }})
{%- endmacro %}


{# How many elements an array has. #}
{% macro array_length(array) %}{{ return(adapter.dispatch('array_length', 'tessera')(array)) }}{% endmacro %}

{% macro duckdb__array_length(array) -%}
    len({{ array }})
{%- endmacro %}


{# A record of named values. #}
{% macro record(fields) %}{{ return(adapter.dispatch('record', 'tessera')(fields)) }}{% endmacro %}

{% macro duckdb__record(fields) -%}
    struct_pack({% for name, value in fields.items() %}{{ name }} := {{ value }}{{ ', ' if not loop.last }}{% endfor %})
{%- endmacro %}


{# The elements of an array for which a condition on `name` holds. #}
{% macro filter_array(array, condition, name) %}{{ return(adapter.dispatch('filter_array', 'tessera')(array, condition, name)) }}{% endmacro %}

{% macro duckdb__filter_array(array, condition, name) -%}
    list_filter({{ array }}, lambda {{ name }}: {{ condition }})
{%- endmacro %}


{# An expression in `name`, of every element of an array. #}
{% macro map_array(array, expression, name) %}{{ return(adapter.dispatch('map_array', 'tessera')(array, expression, name)) }}{% endmacro %}

{% macro duckdb__map_array(array, expression, name) -%}
    list_transform({{ array }}, lambda {{ name }}: {{ expression }})
{%- endmacro %}


{# The last so many elements of an array, in order. #}
{% macro last_elements(array, count) %}{{ return(adapter.dispatch('last_elements', 'tessera')(array, count)) }}{% endmacro %}

{% macro duckdb__last_elements(array, count) -%}
    {{ array }}[-{{ count }}:]
{%- endmacro %}
