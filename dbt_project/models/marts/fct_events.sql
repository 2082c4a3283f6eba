{{ config(materialized='incremental', incremental_strategy='arrival_window', on_schema_change='fail') }}

{#- Ids are read apart from the rows, and hashed: few events come twice, and to sort out all rows for these few costs
    more than everything else here. Import CTEs that are used twice would be written out whole. -#}

with

events as (

    select * from {{ ref('stg_lake__events') }}
    where {{ arrived_in_window() }}

),

hashed as (

    select {{ hash_of('event_id') }} as id_hash
    from {{ ref('stg_lake__events') }}
    where {{ arrived_in_window() }}

),

repeated as (

    select id_hash
    from hashed
    group by id_hash
    having count(*) > 1

),

deliveries as (

    select
        event_id,
        arrival_date,
        source_file,
        source_row,
        row_number() over (partition by event_id order by arrival_date, source_file, source_row) as delivery
    from {{ ref('stg_lake__events') }}
    where
        {{ arrived_in_window() }}
        and {{ hash_of('event_id') }} in (select id_hash from repeated)

),

later_deliveries as (

    select * from deliveries
    where delivery > 1

),

{% if window_day('arrived_from') -%}
-- An event that arrived before the window stays as it was first delivered; of old rows only the ids are read.
known_before as (

    select event_id from {{ this }}
    where
        arrival_date < {{ window_day('arrived_from') }}
        and event_id in (select event_id from {{ ref('stg_lake__events') }} where {{ arrived_in_window() }})

),

{% endif -%}
first_deliveries as (

    select events.* from events
    left join later_deliveries
        on events.event_id = later_deliveries.event_id
        and events.arrival_date = later_deliveries.arrival_date
        and events.source_file = later_deliveries.source_file
        and events.source_row = later_deliveries.source_row
    where
        later_deliveries.event_id is null
        {%- if window_day('arrived_from') %}
        and events.event_id not in (select event_id from known_before)
        {%- endif %}

),

final as (

    select
        event_id,
        user_id,
        item_id,
        event_type,
        event_ts,
        event_date,
        session_id,
        value,
        query,
        position,
        arrival_date,
        source,
        source_file,
        source_row
    from first_deliveries

)

select * from final
