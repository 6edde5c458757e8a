# Ends with 3 when it is told to.
trap 'exit 3' USR1
while :; do sleep 0.02; done
