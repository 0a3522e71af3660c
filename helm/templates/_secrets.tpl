{{/* Where secrets come from, and those that the chart makes itself. */}}

{{/* Whether the chart makes the Secret: nobody else was named. */}}
{{- define "portcullis.ownSecret" -}}
{{- if not (or .Values.secrets.existingSecret .Values.secrets.externalSecret.enabled) }}true{{ end -}}
{{- end -}}

{{- define "portcullis.secretName" -}}
{{- default (include "portcullis.fullname" .) .Values.secrets.existingSecret -}}
{{- end -}}

{{/* Name of the Secret with the URLs that stand in the values; it exists only where there are any. */}}
{{- define "portcullis.urlSecretName" -}}
{{- printf "%s-urls" (include "portcullis.fullname" .) -}}
{{- end -}}

{{/* Of the database or the broker (`$.what`): the Secret that has the URL. */}}
{{- define "portcullis.urlSource" -}}
{{- $external := (index .root.Values .what).external -}}
{{- if $external.existingSecret -}}{{- $external.existingSecret -}}
{{- else if $external.url -}}{{- include "portcullis.urlSecretName" .root -}}
{{- else -}}{{- include "portcullis.secretName" .root -}}
{{- end -}}
{{- end -}}

{{/*
The generated secrets, as the Secret has them: what is in the cluster stays, what is missing is drawn. Several templates ask, and
all must see the same, so what was drawn is remembered. Without a cluster nothing is found, and every rendering draws anew.
*/}}
{{- define "portcullis.generated" -}}
{{- if not (hasKey .Values "generatedOnce") -}}
{{- $found := dig "data" (dict) (lookup "v1" "Secret" .Release.Namespace (include "portcullis.fullname" .)) | default dict -}}
{{- $keys := .Values.secrets.keys -}}
{{- $drawn := dict $keys.secretKey (randAlphaNum 64 | b64enc) $keys.adminPassword (randAlphaNum 24 | b64enc) -}}
{{- if .Values.metrics.token -}}
{{- $_ := set $drawn $keys.metricsToken (randAlphaNum 48 | b64enc) -}}
{{- end -}}
{{- $_ := set .Values "generatedOnce" (merge (deepCopy $found) $drawn) -}}
{{- end -}}
{{- toYaml .Values.generatedOnce -}}
{{- end -}}

{{/* The secrets of a node, each as the file that a setting names. The administrator's password is none of them. */}}
{{- define "portcullis.secretsVolume" -}}
{{- $keys := .Values.secrets.keys -}}
- name: secrets
  projected:
    defaultMode: 0440
    sources:
      - secret:
          name: {{ include "portcullis.secretName" . }}
          items:
            - key: {{ $keys.secretKey }}
              path: secret-key
            {{- with $keys.secretKeyPrevious }}
            - key: {{ . }}
              path: secret-key-previous
            {{- end }}
            {{- if .Values.metrics.token }}
            - key: {{ $keys.metricsToken }}
              path: metrics-token
            {{- end }}
      {{- range $what := list "database" "broker" }}
      {{- if eq (index $.Values $what).type "external" }}
      - secret:
          name: {{ include "portcullis.urlSource" (dict "root" $ "what" $what) }}
          items:
            - key: {{ (index $.Values $what).external.key }}
              path: {{ $what }}-url
      {{- end }}
      {{- end }}
{{- end -}}

{{- define "portcullis.adminPasswordVolume" -}}
- name: admin-password
  secret:
    secretName: {{ include "portcullis.secretName" . }}
    defaultMode: 0440
    items:
      - key: {{ .Values.secrets.keys.adminPassword }}
        path: password
{{- end -}}

{{- define "portcullis.externalSecretSpec" -}}
{{- with .root.Values.secrets.externalSecret -}}
refreshInterval: {{ .refreshInterval }}
secretStoreRef:
  kind: {{ .secretStoreRef.kind }}
  name: {{ .secretStoreRef.name }}
target:
  name: {{ $.target }}
  creationPolicy: Owner
data:
  {{- range $key, $where := .data }}
  - secretKey: {{ $key }}
    remoteRef:
      {{- toYaml $where | nindent 6 }}
  {{- end }}
{{- end -}}
{{- end -}}
