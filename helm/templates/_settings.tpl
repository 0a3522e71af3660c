{{/* From values to the gateway's settings. */}}

{{/* Helm reads every number as a float, which must not become 2.68435456e+08. */}}
{{- define "portcullis.settingText" -}}
{{- if kindIs "bool" . -}}
{{- ternary "on" "off" . -}}
{{- else if kindIs "slice" . -}}
{{- join "," . -}}
{{- else if kindIs "float64" . -}}
{{- if eq . (floor .) -}}{{- printf "%.0f" . -}}{{- else -}}{{- toString . -}}{{- end -}}
{{- else -}}
{{- toString . -}}
{{- end -}}
{{- end -}}

{{/* The address that clients use: as stated, else that of the Ingress or the HTTPRoute, else that of the Service. */}}
{{- define "portcullis.publicUrl" -}}
{{- if .Values.settings.public_url -}}
{{- .Values.settings.public_url -}}
{{- else if and .Values.ingress.enabled .Values.ingress.hosts -}}
{{- printf "%s://%s" (ternary "https" "http" (gt (len .Values.ingress.tls) 0)) (first .Values.ingress.hosts) -}}
{{- else if and .Values.httpRoute.enabled .Values.httpRoute.hostnames -}}
{{- printf "https://%s" (first .Values.httpRoute.hostnames) -}}
{{- else -}}
{{- include "portcullis.serviceUrl" . -}}
{{- end -}}
{{- end -}}

{{- define "portcullis.serviceUrl" -}}
{{- printf "http://%s.%s.svc:%v" (include "portcullis.fullname" .) .Release.Namespace .Values.service.port -}}
{{- end -}}

{{/* The whole seconds of a drain; 0 is a time too, so `default` would be wrong. */}}
{{- define "portcullis.drainSeconds" -}}
{{- ternary .Values.settings.drain_s 10 (hasKey .Values.settings "drain_s") | ceil | int -}}
{{- end -}}

{{- define "portcullis.gracePeriodSeconds" -}}
{{- add .Values.shutdown.preStopSeconds (include "portcullis.drainSeconds" . | int) .Values.shutdown.marginSeconds -}}
{{- end -}}

{{/* The environment of a node and of every command that works on its database. */}}
{{- define "portcullis.environment" -}}
- name: GATEWAY_ENVIRONMENT
  value: production
- name: GATEWAY_SECRET_KEY_FILE
  value: /etc/portcullis/secrets/secret-key
{{- if .Values.secrets.keys.secretKeyPrevious }}
- name: GATEWAY_SECRET_KEY_PREVIOUS_FILE
  value: /etc/portcullis/secrets/secret-key-previous
{{- end }}
{{- if .Values.metrics.token }}
- name: GATEWAY_METRICS_TOKEN_FILE
  value: /etc/portcullis/secrets/metrics-token
{{- end }}
{{- if eq .Values.database.type "external" }}
- name: GATEWAY_DATABASE_URL_FILE
  value: /etc/portcullis/secrets/database-url
{{- else }}
- name: GATEWAY_DATA_DIR
  value: /var/lib/portcullis/data
{{- end }}
{{- if eq .Values.broker.type "external" }}
- name: GATEWAY_BROKER_URL_FILE
  value: /etc/portcullis/secrets/broker-url
{{- end }}
- name: GATEWAY_POLICY_DIR
  value: /etc/portcullis/policies
{{- if .Values.issuers }}
- name: GATEWAY_CONFIG
  value: /etc/portcullis/config/gateway.toml
{{- end }}
- name: GATEWAY_PUBLIC_URL
  value: {{ include "portcullis.publicUrl" . | quote }}
{{- range $name, $value := omit .Values.settings "public_url" }}
- name: GATEWAY_{{ upper $name }}
  value: {{ include "portcullis.settingText" $value | quote }}
{{- end }}
{{- end -}}
