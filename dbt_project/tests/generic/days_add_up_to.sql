{#
  The events that a mart counts on a date are those of fct_events, on all dates: a window that was rebuilt here and not
  there would show as a date with another total.
#}
{% test days_add_up_to(model, days, events, counted="true") %}
    with

    days as (

        select
            event_date,
            sum(impressions + views + clicks + carts + purchases + ratings + other) as events
        from {{ days }}
        group by event_date

    ),

    events as (

        select
            event_date,
            count(*) as events
        from {{ events }}
        where {{ counted }}
        group by event_date

    )

    select
        coalesce(days.event_date, events.event_date) as event_date,
        days.events as counted,
        events.events as expected
    from days
    full outer join events
        on days.event_date = events.event_date
    where coalesce(days.events, 0) <> coalesce(events.events, 0)
{% endtest %}
