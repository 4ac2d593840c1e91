# Sourced: need COMMAND PACKAGE... notes what is not there; install_needed installs it where that may be done.

needed=

need() {
    command=$1
    shift
    (PATH=$PATH:/usr/sbin:/sbin && command -v "$command" >/dev/null 2>&1) || needed="$needed $*"
}

# In CI, as root; elsewhere it says what to install. Arguments: what goes without it.
install_needed() {
    [ -n "$needed" ] || return 0
    if [ "${CI:-}" = true ] && [ "$(id -u)" -eq 0 ]; then
        apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $needed
        return
    fi
    echo "$*: apt-get install$needed"
}
