{{ config(materialized='incremental', incremental_strategy='known_window', on_schema_change='fail') }}

{%- set since = window_day('known_from') %}
{%- set order_key = tuple_of(event_order()) %}

with

interactions as (

    select * from {{ ref('int_events__interactions') }}
    where {{ event_known_in_window() }}

),

ranked as (

    select
        *,
        row_number() over (partition by user_id, item_id, known_date order by {{ event_order() }}) as rank_of_day
    from interactions

),

{% if since -%}
touched as (

    select distinct
        user_id,
        item_id
    from ranked

),

{% endif -%}
-- Of the events of an item that become known on one day, only the earliest can be its first.
candidates as (

    select
        user_id,
        item_id,
        event_type,
        event_ts,
        value,
        arrival_date,
        source_file,
        source_row,
        known_date,
        true as is_new
    from ranked
    where rank_of_day = 1
    {%- if since %}
    union all
    select
        versions.user_id,
        versions.item_id,
        versions.event_type,
        versions.event_ts,
        versions.value,
        versions.arrival_date,
        versions.source_file,
        versions.source_row,
        versions.known_date,
        false as is_new
    from {{ this }} as versions
    inner join touched
        on versions.user_id = touched.user_id
        and versions.item_id = touched.item_id
    where versions.known_date < {{ since }}
    {%- endif %}

),

compared as (

    select
        *,
        min({{ order_key }}) over (
            partition by user_id, item_id
            order by known_date
            rows between unbounded preceding and 1 preceding
        ) as best_before
    from candidates

),

-- What arrives late may turn out to be the first event of an item after all: it takes the place of the one that
-- was taken for it until then.
final as (

    select
        user_id,
        item_id,
        event_type,
        event_ts,
        value,
        arrival_date,
        source_file,
        source_row,
        known_date,
        best_before is not null as takes_over
    from compared
    where
        is_new
        and (best_before is null or best_before > {{ order_key }})

)

select * from final
