# Hashes, regular expressions, closures, a sort, an open file: words.pl FOLDER STEPS
use strict;
use warnings;

my ($folder, $steps) = @ARGV;
my (%count, $state);
$| = 1;
$state = 12345;
my $next = sub { $state = ($state * 1103515245 + 12345) % 2147483648; return $state; };
open(my $output, '>', "$folder/output") or die "$folder/output: $!";
for my $step (0 .. $steps - 1) {
    my $word = join '', map { chr(97 + $next->() % 26) } 1 .. 6;
    $word =~ s/([aeiou])/<$1>/g;
    $count{$1}++ while $word =~ /<([aeiou])>/g;
    $count{length $word}++;
    print $output "$step $word\n";
    select(undef, undef, undef, 0.002) if $step % 500 == 0;
    print "step $step\n" if $step % 5000 == 0;
}
print $output "$_ $count{$_}\n" for sort keys %count;
close $output or die "$folder/output: $!";
print 'sum ', join(' ', map { "$_=$count{$_}" } sort keys %count), "\n";
