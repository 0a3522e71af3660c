{{/* What all pods have in common: the restricted Pod Security Standard, the volumes, the script of the first administrator. */}}

{{- define "portcullis.podSecurityContext" -}}
runAsNonRoot: true
runAsUser: {{ .Values.runAsUser }}
runAsGroup: {{ .Values.runAsUser }}
fsGroup: {{ .Values.runAsUser }}
# Without it every start would open the data directory to the group again.
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- define "portcullis.containerSecurityContext" -}}
allowPrivilegeEscalation: false
privileged: false
readOnlyRootFilesystem: true
runAsNonRoot: true
capabilities:
  drop: [ALL]
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{/* What a pod of the release that is no node needs to run. */}}
{{- define "portcullis.podBasics" -}}
automountServiceAccountToken: false
# A Service named `gateway` would put variables into the environment that look like settings.
enableServiceLinks: false
securityContext:
  {{- include "portcullis.podSecurityContext" . | nindent 2 }}
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- end -}}

{{- define "portcullis.policiesConfigMap" -}}
{{- default (printf "%s-policies" (include "portcullis.fullname" .)) .Values.policies.existingConfigMap -}}
{{- end -}}

{{/* The whole directory, never single files of it: only so a changed ConfigMap reaches the pod without a restart. */}}
{{- define "portcullis.volumes" -}}
{{ include "portcullis.secretsVolume" . }}
- name: policies
  configMap:
    name: {{ include "portcullis.policiesConfigMap" . }}
{{- if .Values.issuers }}
- name: config
  configMap:
    name: {{ include "portcullis.fullname" . }}-config
{{- end }}
- name: tmp
  emptyDir:
    sizeLimit: 64Mi
{{- if eq .Values.database.type "embedded" }}
- name: data
  {{- if .Values.database.persistence.enabled }}
  persistentVolumeClaim:
    claimName: {{ default (printf "%s-data" (include "portcullis.fullname" .)) .Values.database.persistence.existingClaim }}
  {{- else }}
  emptyDir: {}
  {{- end }}
{{- end }}
{{- end -}}

{{- define "portcullis.volumeMounts" -}}
- name: secrets
  mountPath: /etc/portcullis/secrets
  readOnly: true
- name: policies
  mountPath: /etc/portcullis/policies
  readOnly: true
{{- if .Values.issuers }}
- name: config
  mountPath: /etc/portcullis/config
  readOnly: true
{{- end }}
- name: tmp
  mountPath: /tmp
{{- if eq .Values.database.type "embedded" }}
# The gateway keeps its data in a directory below, of its own: the root of a volume belongs to root.
- name: data
  mountPath: /var/lib/portcullis
{{- end }}
{{- end -}}

{{- define "portcullis.firstAdminMount" -}}
- name: admin-password
  mountPath: /etc/portcullis/admin
  readOnly: true
{{- end -}}

{{/*
Adds the first user to a database that has none, and touches nothing else: a user that somebody deleted does not come back while
there are others, and a changed password stays. Two that run at once are fine: the second one is told that the user is there.
*/}}
{{- define "portcullis.firstAdminCommand" -}}
- /bin/sh
- -euc
- |
  users=$(gateway users list --json)
  if [ "$(printf %s "$users" | tr -d '[:space:]')" != "[]" ]; then
    echo "there are users already; none is added"
    exit 0
  fi
  if said=$(gateway users add "$@" --password-stdin </etc/portcullis/admin/password 2>&1); then
    echo "$said"
  else
    case $said in
      *"there is an account"*already*) echo "another one has added the user meanwhile" ;;
      *) echo "$said" >&2; exit 1 ;;
    esac
  fi
- first-admin
{{- end -}}

{{- define "portcullis.firstAdminArguments" -}}
- {{ .Values.firstAdmin.name | quote }}
{{- range .Values.firstAdmin.roles }}
- --role
- {{ . | quote }}
{{- end }}
{{- with .Values.firstAdmin.tenant }}
- --tenant
- {{ . | quote }}
{{- end }}
{{- end -}}

{{- define "portcullis.firstAdminContainer" -}}
- name: first-admin
  image: {{ include "portcullis.image" . }}
  imagePullPolicy: {{ .Values.image.pullPolicy }}
  command:
    {{- include "portcullis.firstAdminCommand" . | nindent 4 }}
  args:
    {{- include "portcullis.firstAdminArguments" . | nindent 4 }}
  env:
    {{- include "portcullis.environment" . | nindent 4 }}
  securityContext:
    {{- include "portcullis.containerSecurityContext" . | nindent 4 }}
  resources:
    {{- toYaml .Values.migration.resources | nindent 4 }}
  volumeMounts:
    {{- include "portcullis.volumeMounts" . | nindent 4 }}
    {{- include "portcullis.firstAdminMount" . | nindent 4 }}
{{- end -}}
