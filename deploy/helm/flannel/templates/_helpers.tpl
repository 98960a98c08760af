{{/* Labels that flannel's objects have. */}}
{{- define "flannel.labels" -}}
tier: node
app: flannel
{{- end }}

{{- define "flannel.image" -}}
{{ .Values.flannel.image.repository }}:{{ .Values.flannel.image.tag | default .Chart.AppVersion }}
{{- end }}

{{- define "flannel.cniImage" -}}
{{- with .Values.flannel.flannel_cni.image -}}
{{ if .repository }}{{ .repository }}:{{ .tag | default $.Chart.AppVersion }}{{ else }}{{ include "flannel.image" $ }}{{ end }}
{{- end }}
{{- end }}

{{/* "true" if the container must be privileged. */}}
{{- define "flannel.privileged" -}}
{{- if kindIs "bool" .Values.flannel.privileged }}{{ .Values.flannel.privileged }}{{ else }}{{ eq .Values.flannel.backend "udp" }}{{ end }}
{{- end }}

{{/* The network config, made as values and written as JSON: nothing in it can break the quoting. */}}
{{- define "flannel.netConf" -}}
{{- $given := .Values.flannel }}
{{- $names := dict }}
{{- if eq $given.backend "vxlan" }}
{{- $names = dict "backendPort" "Port" "vni" "VNI" "GBP" "GBP" "directRouting" "DirectRouting" "mtu" "MTU" "macPrefix" "MacPrefix" }}
{{- else if eq $given.backend "wireguard" }}
{{- $names = dict "backendPort" "ListenPort" "backendPortv6" "ListenPortV6" "psk" "PSK" "mtu" "MTU" "tunnelMode" "Mode" "keepaliveInterval" "PersistentKeepaliveInterval" }}
{{- else if eq $given.backend "udp" }}
{{- $names = dict "backendPort" "Port" "mtu" "MTU" }}
{{- end }}
{{- $backend := dict "Type" $given.backend }}
{{- range $value, $name := $names }}
{{- $found := get $given $value }}
{{- if not (or (kindIs "invalid" $found) (eq (toString $found) "")) }}
{{- if kindIs "float64" $found }}{{ $found = int64 $found }}{{ end }}
{{- $_ := set $backend $name $found }}
{{- end }}
{{- end }}
{{- $conf := dict "Backend" (mergeOverwrite $backend (deepCopy $given.backendConfig)) }}
{{- if .Values.podCidr }}{{ $_ := set $conf "Network" .Values.podCidr }}{{ else }}{{ $_ := set $conf "EnableIPv4" false }}{{ end }}
{{- if .Values.podCidrv6 }}{{ $_ := set $conf "EnableIPv6" true }}{{ $_ := set $conf "IPv6Network" .Values.podCidrv6 }}{{ end }}
{{- if not (kindIs "invalid" $given.enableNFTables) }}{{ $_ := set $conf "EnableNFTables" $given.enableNFTables }}{{ end }}
{{- mergeOverwrite $conf (deepCopy $given.netConf) | toPrettyJson }}
{{- end }}

{{/* What both init containers may do: copy files. */}}
{{- define "flannel.initContainer" -}}
resources:
  requests:
    cpu: 10m
    memory: 50Mi
securityContext:
  privileged: false
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  runAsUser: 0
  capabilities:
    drop: [ALL]
{{- end }}
