{{ config(materialized='incremental', incremental_strategy='history_tails', on_schema_change='fail') }}

-- dbt reads this file as for a full build, and so sees only one of the two:
-- depends_on: {{ ref('int_users__history_versions') }}

{%- set is_tail = window_day('known_from') is not none %}

with

{% if is_tail -%}
tails as (

    {{ history_tails(this, ref('int_users__history_versions')) }}

),

kept as (

    select
        histories.user_id,
        histories.item_id
    from {{ this }} as histories
    inner join tails
        on histories.user_id = tails.user_id
        and histories.event_ts < tails.differs_from

),

kept_lengths as (

    select
        user_id,
        count(*) as length
    from kept
    group by user_id

),

versions as (

    select versions.* from {{ ref('int_users__history_versions') }} as versions
    inner join tails
        on versions.user_id = tails.user_id
        and versions.event_ts >= tails.differs_from

),

-- An item that stands before the tail does not stand in it.
new_versions as (

    select versions.* from versions
    left join kept
        on versions.user_id = kept.user_id
        and versions.item_id = kept.item_id
    where kept.item_id is null

),

entries as (

    select
        *,
        lead(known_date) over (partition by user_id, item_id order by known_date) as known_until
    from new_versions

),

{% else -%}
entries as (

    select * from {{ ref('int_users__history_spans') }}

),

{% endif -%}
numbered as (

    select
        *,
        row_number() over (partition by user_id order by {{ event_order() }}) as place
    from entries
    where known_until is null

),

final as (

    select
        numbered.user_id,
        cast(numbered.place {{ '+ coalesce(kept_lengths.length, 0)' if is_tail }} as integer) as position,
        numbered.item_id,
        numbered.event_type,
        numbered.event_ts,
        numbered.value,
        numbered.known_date
    from numbered
    {%- if is_tail %}
    left join kept_lengths on numbered.user_id = kept_lengths.user_id
    {%- endif %}

)

select * from final
