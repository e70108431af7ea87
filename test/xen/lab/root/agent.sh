#!/bin/sh
# Runs what the host asks for. Requests and ends are single lines on a virtio port; command, output and process id of
# job N are files in /lab/jobs/N, which the host shares.
port=
for name in /sys/class/virtio-ports/*/name; do
  [ "$(cat "$name" 2>/dev/null)" = lab ] && port=/dev/$(basename "$(dirname "$name")")
done
[ -n "$port" ] || { echo 'agent: no virtio port named lab'; exit 1; }
exec 3<>"$port"
cd /root
echo "ready $(cut -d' ' -f1 /proc/uptime)" >&3
while read -r verb job signal <&3; do
  case $verb in
    run)
      (
        setsid sh -c 'echo $$ >"$0/pid" && exec sh "$0/command"' "/lab/jobs/$job" \
          </dev/null >"/lab/jobs/$job/stdout" 2>"/lab/jobs/$job/stderr" 3>&-
        echo "end $job $?" >&3
      ) &
      ;;
    kill) kill -"$signal" -"$(cat "/lab/jobs/$job/pid")" ;;
  esac
done
