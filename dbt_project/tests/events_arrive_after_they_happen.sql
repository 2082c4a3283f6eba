-- Incremental windows leave lake days before the window closed, which is right only as long as this holds.
select
    event_id,
    event_ts,
    arrival_date
from {{ ref('fct_events') }}
where event_date > arrival_date
