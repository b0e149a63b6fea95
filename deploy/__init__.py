"""Set-up and image tools. Nothing here is installed or imported by the product."""
