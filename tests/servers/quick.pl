#!/usr/bin/perl
# An HTTP server that is up within milliseconds, for watchers that start on demand. It says which process answers: at
# once, or at /slow?ms=N after so many milliseconds. After SIGTERM it accepts nothing more, and answers what it has.
# Its socket is the descriptor that the argument names.

use strict;
use warnings;

open(my $listener, '+<&=', $ARGV[0]) or die "no socket at $ARGV[0]: $!";
my $stopping = 0;
$SIG{TERM} = sub { $stopping = 1 };

until ($stopping) {
    my $ready = '';
    vec($ready, fileno($listener), 1) = 1;
    # Bounded, as a signal between the question and the wait would be noticed only after the wait.
    next unless select($ready, undef, undef, 0.01) > 0;
    # Somebody else may have been quicker; SIGTERM may have come meanwhile.
    next if $stopping or !accept(my $client, $listener);
    my $request = '';
    while ($request !~ /\r\n\r\n/) {
        my $count = sysread($client, $request, 4096, length $request);
        last if defined $count ? !$count : !$!{EINTR};
    }
    select(undef, undef, undef, $1 / 1000) if $request =~ m{^GET /slow\?ms=(\d+) };
    my $body = "$$\n";
    syswrite($client, "HTTP/1.1 200 OK\r\nContent-Length: " . length($body) . "\r\nConnection: close\r\n\r\n$body");
}
