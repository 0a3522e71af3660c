{{/* What the schema cannot say: values that do not go together are refused with a sentence. */}}

{{- define "portcullis.refuse" -}}
{{- $values := .Values -}}
{{- $shared := and (eq $values.database.type "external") (eq $values.broker.type "external") -}}
{{- if and (gt (int $values.replicaCount) 1) (not $shared) -}}
{{- fail "replicaCount above 1 needs a database and a broker that the nodes share: set database.type and broker.type to `external`, or leave it at 1" -}}
{{- end -}}
{{- if and $values.autoscaling.enabled (not $shared) -}}
{{- fail "autoscaling needs a database and a broker that the nodes share: set database.type and broker.type to `external`, or leave autoscaling.enabled off" -}}
{{- end -}}
{{- if and $values.autoscaling.enabled (not (or $values.autoscaling.targetCPUUtilizationPercentage $values.autoscaling.targetConnections)) -}}
{{- fail "autoscaling has nothing to go by: set autoscaling.targetCPUUtilizationPercentage or autoscaling.targetConnections" -}}
{{- end -}}
{{- if and $values.autoscaling.enabled (gt (int $values.autoscaling.minReplicas) (int $values.autoscaling.maxReplicas)) -}}
{{- fail "autoscaling.minReplicas is more than autoscaling.maxReplicas" -}}
{{- end -}}
{{- range $what := list "ingress" "httpRoute" -}}
{{- if and (index $values $what).enabled (not $values.settings.trusted_proxies) -}}
{{- fail (printf "%s.enabled needs the networks of its proxies in settings.trusted_proxies, such as [10.0.0.0/8]: without them all clients would share one address, and its limits" $what) -}}
{{- end -}}
{{- end -}}
{{- if and $values.ingress.enabled (not $values.ingress.hosts) -}}
{{- fail "ingress.enabled needs a name in ingress.hosts" -}}
{{- end -}}
{{- if and $values.httpRoute.enabled (not $values.httpRoute.parentRefs) -}}
{{- fail "httpRoute.enabled needs the Gateway that it attaches to in httpRoute.parentRefs" -}}
{{- end -}}
{{- $external := $values.secrets.externalSecret -}}
{{- if and $values.secrets.existingSecret $external.enabled -}}
{{- fail "secrets.existingSecret and secrets.externalSecret.enabled exclude each other; drop one of them" -}}
{{- end -}}
{{- if $external.enabled -}}
{{- if not $external.secretStoreRef.name -}}
{{- fail "secrets.externalSecret.enabled needs the store's name in secrets.externalSecret.secretStoreRef.name" -}}
{{- end -}}
{{- range $key := include "portcullis.neededKeys" . | fromJsonArray -}}
{{- if not (hasKey $external.data $key) -}}
{{- fail (printf "secrets.externalSecret.data does not say where the key `%s` is" $key) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- range $what := list "database" "broker" -}}
{{- $one := index $values $what -}}
{{- if and $one.external.url $one.external.existingSecret -}}
{{- fail (printf "%s.external.url and %s.external.existingSecret exclude each other; drop one of them" $what $what) -}}
{{- end -}}
{{- if and (eq $one.type "external") (not (or $one.external.url $one.external.existingSecret $values.secrets.existingSecret $external.enabled)) -}}
{{- fail (printf "%s.type `external` needs %s.external.url, or a Secret that has it in %s.external.existingSecret" $what $what $what) -}}
{{- end -}}
{{- if and (ne $one.type "external") (or $one.external.url $one.external.existingSecret) -}}
{{- fail (printf "%s.external is given, but %s.type is `%s`: set it to `external`" $what $what $one.type) -}}
{{- end -}}
{{- end -}}
{{- if and $values.networkPolicy.enabled (not $values.networkPolicy.clients) -}}
{{- fail "networkPolicy.enabled needs somebody in networkPolicy.clients, such as the ingress controller's namespace: nobody could connect" -}}
{{- end -}}
{{- if and $values.policies.files $values.policies.existingConfigMap -}}
{{- fail "policies.files and policies.existingConfigMap exclude each other; drop one of them" -}}
{{- end -}}
{{- if and $values.policies.files $values.firstAdmin.enabled -}}
{{- $roles := dict -}}
{{- range $name, $text := $values.policies.files -}}
{{- $_ := merge $roles (dig "roles" (dict) (fromYaml $text) | default dict) -}}
{{- end -}}
{{- range $values.firstAdmin.roles -}}
{{- if not (hasKey $roles .) -}}
{{- fail (printf "firstAdmin.roles names `%s`, which policies.files does not define: name a role of yours, or switch firstAdmin.enabled off" .) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* The keys that an ExternalSecret has to fetch. */}}
{{- define "portcullis.neededKeys" -}}
{{- $values := .Values -}}
{{- $keys := list $values.secrets.keys.secretKey -}}
{{- if $values.firstAdmin.enabled -}}{{- $keys = append $keys $values.secrets.keys.adminPassword -}}{{- end -}}
{{- with $values.secrets.keys.secretKeyPrevious -}}{{- $keys = append $keys . -}}{{- end -}}
{{- if $values.metrics.token -}}{{- $keys = append $keys $values.secrets.keys.metricsToken -}}{{- end -}}
{{- range $what := list "database" "broker" -}}
{{- $one := index $values $what -}}
{{- if and (eq $one.type "external") (not $one.external.url) (not $one.external.existingSecret) -}}
{{- $keys = append $keys $one.external.key -}}
{{- end -}}
{{- end -}}
{{- toJson $keys -}}
{{- end -}}
