"""Who is who: join tokens, the federation's authorities, certificates, and TLS that demands them."""
