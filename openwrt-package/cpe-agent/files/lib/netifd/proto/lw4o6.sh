#!/bin/sh
# Protocol 'lw4o6' of netifd: hands an interface's options to the agent, which gets the port set and
# tells netifd of tunnel, address and route. What the options mean is checked by the agent.

[ -n "$INCLUDE_ONLY" ] || {
	# shellcheck source=/dev/null
	. /lib/functions.sh
	# shellcheck source=/dev/null
	. ../netifd-proto.sh
	init_proto "$@"
}

LW4O6_RUN_DIR=/var/run/cpe-agent
LW4O6_OPTIONS="ip6addr tunlink ports lifetime parity protocol internal_port fallback mtu mss_clamp \
	inner_address icmp_recovery default_router release zone sets more_above less_below set_hold \
	host_limit flow_timeouts"

proto_lw4o6_init_config() {
	local option

	# shellcheck disable=SC2034 # netifd-proto.sh reads them
	no_device=1 available=1 no_proto_task=1 renew_handler=1

	# All as text: of a number or flag that is none, netifd would take the default without a word.
	proto_config_add_string peeraddr
	for option in $LW4O6_OPTIONS; do
		proto_config_add_string "$option"
	done
	proto_config_add_array 'server:list(host)'
	proto_config_add_defaults
}

# The AFTR as configured, else as DHCPv6 told (option 64), by 'tunlink' or by any uplink.
lw4o6_find_aftr() {
	local file

	aftr="$peeraddr"
	[ -z "$aftr" ] || return 0
	for file in "$LW4O6_RUN_DIR/aftr-"${tunlink:-*}; do
		[ -s "$file" ] && read -r aftr <"$file" && return 0
	done
	return 1
}

lw4o6_resolve_aftr() {
	case "$aftr" in
	*:*) address="$aftr" ;;
	*) address="$(resolveip -6 "$aftr" | sed -n 1p)" ;;
	esac
	[ -n "$address" ]
}

lw4o6_find_agent() {
	ubus -t 10 wait_for cpe-agent 2>/dev/null
}

# Run a command until it succeeds, and show a code meanwhile. Codes that are shown go away by setting
# up anew only, so that is what comes then.
lw4o6_need() {
	local interface="$1" code="$2"

	shift 2
	"$@" && return
	proto_notify_error "$interface" "$code"
	until "$@"; do
		sleep 5
	done
	lw4o6_again "$interface"
}

# Have netifd set up again from the start; it ends this process.
lw4o6_again() {
	proto_setup_failed "$1"
	exit 0
}

lw4o6_request() {
	local option value

	json_init
	json_add_string interface "$1"
	json_add_object options
	json_add_string peeraddr "$address"
	for option in $LW4O6_OPTIONS; do
		eval "value=\"\$$option\""
		[ -z "$value" ] || json_add_string "$option" "$value"
	done
	json_add_array server
	for value in $server; do
		json_add_string "" "$value"
	done
	json_close_array
	json_close_object
	json_dump
}

proto_lw4o6_setup() {
	local interface="$1"
	local peeraddr server aftr address request reply code error
	# shellcheck disable=SC2086 # one name per word, here and below
	local $LW4O6_OPTIONS

	# shellcheck disable=SC2086
	json_get_vars peeraddr $LW4O6_OPTIONS
	json_get_values server server

	# On 'tunlink', or else on what has the default route. Which address of the AFTR is reachable by
	# what is the agent's business, which waits for a route by itself.
	if [ -n "$tunlink" ]; then
		proto_add_host_dependency "$interface" "" "$tunlink"
	else
		proto_add_host_dependency "$interface" "::"
	fi

	lw4o6_need "$interface" NO_AFTR lw4o6_find_aftr
	lw4o6_need "$interface" AFTR_DNS_FAIL lw4o6_resolve_aftr
	lw4o6_need "$interface" NO_AGENT lw4o6_find_agent

	request="$(lw4o6_request "$interface")"
	# Not at once: it may fail at once again.
	reply="$(ubus -t 10 call cpe-agent up "$request")" || {
		sleep 5
		lw4o6_again "$interface"
	}
	json_load "${reply:-{\}}"
	json_get_vars code error
	[ -n "$code" ] || return 0

	proto_notify_error "$interface" "$code" "$error"
	# An option is mended by the user, and 'network reload' sets up again what has changed.
	[ "$code" = INVALID_OPTION ] && return 0
	sleep 30
	lw4o6_again "$interface"
}

proto_lw4o6_teardown() {
	# An agent that is not there would else go on with the interface when it comes.
	ubus -t 4 call cpe-agent down "{ \"interface\": \"$1\" }" >/dev/null 2>&1 ||
		rm -f "$LW4O6_RUN_DIR/interface"
}

proto_lw4o6_renew() {
	ubus -t 10 call cpe-agent renew '{}' >/dev/null
}

[ -n "$INCLUDE_ONLY" ] || add_protocol lw4o6
