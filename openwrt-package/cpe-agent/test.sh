#!/bin/sh
# Run by the packages feed's CI, after installation: test.sh PACKAGE VERSION.

case "$1" in
cpe-agent)
	[ "$(cpe-agent version)" = "${2%-r*}" ] || exit 1
	cpe-agent check || exit 1
	cpe-agent print-nft 192.0.2.1 1024 1024 | grep -q 1024-2047
	;;
esac
