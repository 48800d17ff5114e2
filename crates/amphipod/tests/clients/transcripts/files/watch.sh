# Watches one object, changes it once the watch is there, deletes it, and prints what was seen.
timeout 30 kubectl get configmap cm-a --watch --output-watch-events --show-labels --no-headers > seen &
until [ -s seen ]; do sleep 0.1; done
kubectl label configmap cm-a color=red
kubectl delete configmap cm-a
until grep -q DELETED seen; do sleep 0.1; done
kill $!
cat seen
