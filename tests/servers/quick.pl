#!/usr/bin/perl
# An HTTP server that is up within milliseconds, for watchers that start on demand. It says which process answers: at
# once, or at /slow?ms=N after so many milliseconds. SIGTERM ends it whatever it is at, so that whoever stops it has to
# know that nobody wants anything. Its socket is the descriptor that the argument names.

use strict;
use warnings;

open(my $listener, '+<&=', $ARGV[0]) or die "no socket at $ARGV[0]: $!";

while (1) {
    my $ready = '';
    vec($ready, fileno($listener), 1) = 1;
    select($ready, undef, undef, undef);
    # Somebody else may have been quicker.
    next if !accept(my $client, $listener);
    my $request = '';
    while ($request !~ /\r\n\r\n/) {
        last if !sysread($client, $request, 4096, length $request);
    }
    select(undef, undef, undef, $1 / 1000) if $request =~ m{^GET /slow\?ms=(\d+) };
    my $body = "$$\n";
    syswrite($client, "HTTP/1.1 200 OK\r\nContent-Length: " . length($body) . "\r\nConnection: close\r\n\r\n$body");
}
