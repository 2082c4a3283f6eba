{#
  dbt run-operation export_marts --args '{target: DIR}'

  Writes every model under marts/ to DIR/NAME.parquet, ordered by the key that its meta states. DIR must exist; the
  caller publishes it.
#}
{% macro export_marts(target) %}
    {% if execute %}
        {% for mart in graph.nodes.values() | selectattr('resource_type', 'equalto', 'model') | sort(attribute='name') if 'marts' in mart.fqn %}
            {% set key = mart.config.meta.get('key') %}
            {% if not key %}
                {% do exceptions.raise_compiler_error(mart.original_file_path ~ ': a mart needs meta.key, the columns that it is sorted by') %}
            {% endif %}
            {% set relation = api.Relation.create(database=mart.database, schema=mart.schema, identifier=mart.alias) %}
            {% set query = 'select * from ' ~ relation ~ ' order by ' ~ key | join(', ') %}
            {% do run_query(write_parquet(query, target ~ '/' ~ mart.name ~ '.parquet')) %}
            {% do log('exported ' ~ mart.name, info=true) %}
        {% endfor %}
    {% endif %}
{% endmacro %}
