{#
  Users whose history differs from what user_histories holds, and the time from which it does: that of the first entry
  that becomes known in the window, now or when the window was built before.
#}
{% macro history_tails(histories, versions) %}
    select
        user_id,
        min(event_ts) as differs_from
    from (
        select user_id, event_ts from {{ histories }} where {{ known_in_window() }}
        union all
        select user_id, event_ts from {{ versions }} where {{ known_in_window() }}
    ) as entries
    group by user_id
{% endmacro %}


{# Incremental strategy `history_tails`: of the histories that change, what follows the first change is replaced. #}
{% macro get_incremental_history_tails_sql(args) %}
    {%- set target = args['target_relation'] -%}
    {%- set tails = history_tails(target, ref('int_users__history_versions')) -%}
    {{ replace_where(args, tuple_of('user_id, position') ~ ' in (
        select ' ~ tuple_of('histories.user_id, histories.position') ~ '
        from ' ~ target ~ ' as histories
        inner join (' ~ tails ~ ') as tails
            on histories.user_id = tails.user_id
            and histories.event_ts >= tails.differs_from
    )') }}
{% endmacro %}
