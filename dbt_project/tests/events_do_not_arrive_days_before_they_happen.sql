-- Incremental windows read no lake day before the eve of the window, which is right only as long as this holds.
select
    event_id,
    event_ts,
    arrival_date
from {{ ref('fct_events') }}
where event_date > {{ add_days('arrival_date', 1) }}
